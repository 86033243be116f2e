"""Rounds against clients that answer by rule: what is averaged, counted, kept and refused."""

import json

import pytest
import torch
from flwr.app import Error, Message, RecordDict
from playing_clients import grid_of, members_of, playing_app
from small_federation import CLASSES

from fglfast.base.errors import IncompleteError
from fglfast.federation import guard, wire
from fglfast.federation.aggregation import Aggregation
from fglfast.federation.ensemble import uploaded_models
from fglfast.federation.federation import Federation
from fglfast.federation.members import Members
from fglfast.federation.method_plan import MethodPlan
from fglfast.federation.rounds import PlannedRounds

RIGHT = {0: 0.0, 1: 1 / 3, 2: 2 / 6}  # share of its held-out ones


class KilledError(Exception):
    """Stands for a kill of the server."""


def adding_app(asked=None, failing=(), spoil=lambda number, weights: weights):
    """A client whose weights after a round are those it got, plus its number."""

    def add(number, weights):
        if number in failing:
            raise RuntimeError("broken disk")
        return spoil(number, {name: tensor + number for name, tensor in weights.items()})

    return playing_app(add, lambda number, weights: RIGHT[number], asked)


@pytest.fixture
def federation(experiment, model):
    def make(app, least=2, sizes=(1, 3, 6), **changes):
        trusted = tuple(f"client{number:03d}" for number in range(len(sizes)))
        known = experiment.model_copy(update={"trusted_counts": trusted, **changes})
        grid = grid_of(app, len(sizes), least)
        return Federation(grid, members_of(sizes), known, 0, CLASSES, model, lambda model: 0.5)

    return make


def start(made):
    return {name: torch.zeros_like(tensor, dtype=torch.float32) for name, tensor in made.model.state_dict().items()}


def learned(weights):
    """All but the counters of steps, which stay as they were."""
    return [tensor for name, tensor in weights.items() if not name.endswith(wire.STEPS)]


def run(made, folder, plan=MethodPlan("fedavg", 3)):  # noqa: B008 (a frozen plan)
    return PlannedRounds(made, plan).run(start(made), folder)


def test_clients_count_by_the_images_that_their_payloads_claim(federation, tmp_path):
    weights, _ = run(federation(adding_app()), tmp_path)
    mean = (0 * 1 + 1 * 3 + 2 * 6) / 10
    assert all(torch.allclose(tensor, torch.tensor(3 * mean)) for tensor in learned(weights))


@pytest.mark.parametrize(("claim", "weight"), [(9, 4), (10**6, 4), (10**9, 3)])
def test_a_claim_counts_no_more_than_all_others_together_unless_it_is_trusted(claim, weight, federation, tmp_path):
    """One that no honest client makes counts as the middle one of the others."""
    made = federation(adding_app(), sizes=(1, 3, claim), trusted_counts=())
    weights, _ = run(made, tmp_path, MethodPlan("fedavg", 1))
    mean = (0 * 1 + 1 * 3 + 2 * weight) / (4 + weight)
    assert all(torch.allclose(tensor, torch.tensor(mean)) for tensor in learned(weights))


def test_while_nothing_can_be_lost_no_step_counts_more_than_a_few_usual_ones(capsys):
    before = {"w": torch.ones(4), "seen": torch.tensor(3)}
    steps = {"ann": 1.0, "bob": -1.0, "eve": -990.0}
    updates = {who: {"w": before["w"] + step, "seen": torch.tensor(4)} for who, step in steps.items()}
    kept = guard.bounded(before, updates, guard.steps(before, updates, ["w"]))
    assert kept["ann"] is updates["ann"] and kept["bob"] is updates["bob"]
    assert torch.allclose(kept["eve"]["w"], torch.full((4,), 1 - guard.FAR)) and kept["eve"]["seen"] == 4
    assert "eve moved 990 times as far as usual: it counts as 3" in capsys.readouterr().err
    assert guard.Bar(None, 0.1).known == guard.Bar(0.15, 0.1).known == 0 and guard.Bar(0.5, 0.1).known == 0.4


def test_among_honest_clients_that_nobody_guards_every_step_counts_whole(federation, tmp_path, experiment):
    far = adding_app(spoil=lambda number, own: own if number < 2 else {name: w + 2000 for name, w in own.items()})
    plain = experiment.server.model_copy(update={"guard": False})
    weights, _ = run(federation(far, server=plain), tmp_path, MethodPlan("fedavg", 1))
    assert all(torch.allclose(tensor, torch.tensor((3 + 6 * 2002) / 10)) for tensor in learned(weights))


def test_what_counts_batches_stays_whole(federation, tmp_path):
    made = federation(adding_app())
    fresh = {name: torch.zeros_like(tensor) for name, tensor in made.model.state_dict().items()}
    weights, _ = PlannedRounds(made, MethodPlan("fedavg", 2)).run(fresh, tmp_path)
    assert {name: tensor.dtype for name, tensor in weights.items()} == {name: t.dtype for name, t in fresh.items()}


def test_accuracy_counts_every_claimed_image_once_and_names_the_worst_client(federation, tmp_path):
    _, rows = run(federation(adding_app()), tmp_path)
    assert rows[-1].accuracy == pytest.approx((0 + 1 + 2) / 10) and rows[-1].median == pytest.approx(1 / 3)
    assert rows[-1].by_client == pytest.approx((0.0, 1 / 3, 2 / 6)) and rows[-1].worst_client == 0.0


def test_what_clients_say_is_in_the_order_of_their_names_whatever_their_nodes(federation):
    made = federation(adding_app())
    nodes = [member.node for member in reversed(made.members.all)]
    members = [member.model_copy(update={"node": node}) for member, node in zip(made.members.all, nodes, strict=True)]
    shared = made.grid, tuple(reversed(members)), made.experiment, 0, CLASSES, made.model, made.test
    assert Federation(*shared).judge(start(made), 0, milestone=False).by_client == (RIGHT[2], RIGHT[1], RIGHT[0])


def test_clients_that_judge_nothing_leave_an_accuracy_unknown(federation, tmp_path):
    silent = playing_app(lambda number, weights: weights, lambda number, weights: None)
    _, rows = run(federation(silent), tmp_path)
    assert (rows[-1].accuracy, rows[-1].median, rows[-1].by_client) == (None, None, (None,) * 3)


def test_the_test_set_is_read_at_milestones_and_at_the_end_only(federation, tmp_path):
    _, rows = run(federation(adding_app()), tmp_path)
    assert [row.test_accuracy for row in rows] == [None, None, 0.5, 0.5]


def test_bytes_are_those_of_the_training_messages(federation, tmp_path):
    made = federation(adding_app())
    _, rows = run(made, tmp_path)
    one_way = wire.weights_record(start(made)).count_bytes()
    assert [row.bytes_up // (3 * one_way) for row in rows] == [0, 1, 2, 3]
    assert 3 * 3 * one_way <= rows[-1].bytes_down < 1.5 * 3 * 3 * one_way


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedadam", "krum"])
def test_a_run_goes_on_after_the_last_round_and_ends_the_same(federation, tmp_path, strategy, experiment):
    asked, server = [], experiment.server.model_copy(update={"strategy": strategy})
    whole, rows = run(federation(adding_app(), server=server), tmp_path / "whole")
    made, calls = federation(adding_app(asked), server=server), iter(range(100))

    def kill(weights, number):
        if next(calls) == 1:
            raise KilledError
        return weights

    plan = MethodPlan("fedavg", 3, fine_tune=kill)
    with pytest.raises(KilledError):
        run(made, tmp_path / "killed", plan)
    asked.clear()
    weights, again = run(federation(adding_app(asked), server=server), tmp_path / "killed")
    assert {told["server-round"] for _, told in asked} == {2, 3}
    assert all(torch.equal(weights[name], whole[name]) for name in whole)
    free = {"server_seconds", "client_seconds"}
    assert [row.model_dump(exclude=free) for row in again] == [row.model_dump(exclude=free) for row in rows]
    assert len(json.loads((tmp_path / "killed" / "rounds.json").read_text())) == 4
    assert len(list((tmp_path / "killed").glob("weights-*"))) == 1


def test_a_finished_run_asks_nobody(federation, tmp_path):
    run(federation(adding_app()), tmp_path)
    asked = []
    run(federation(adding_app(asked)), tmp_path)
    assert not asked


def test_what_the_server_does_with_an_average_is_what_clients_get(federation, tmp_path):
    plan = MethodPlan(
        "tuned", 2, fine_tune=lambda weights, number: {name: tensor * 0 for name, tensor in weights.items()}
    )
    weights, _ = run(federation(adding_app()), tmp_path, plan)
    assert all(not tensor.any() for tensor in learned(weights))


def test_fedprox_tells_its_clients(federation, tmp_path):
    asked = []
    run(federation(adding_app(asked)), tmp_path, MethodPlan("fedprox", 1, proximal_mu=0.25))
    assert {told["proximal-mu"] for _, told in asked if "proximal-mu" in told} == {0.25}


def test_a_failing_client_is_named_and_the_others_carry_on(federation, tmp_path, capsys):
    weights, rows = run(federation(adding_app(failing=(0,))), tmp_path, MethodPlan("fedavg", 1))
    said = capsys.readouterr().err
    assert "asked 3, answered 2; left out client000 (node 2): RuntimeError: broken disk" in said
    assert all(torch.allclose(tensor, torch.tensor(15 / 9)) for tensor in learned(weights))
    assert rows[-1].clients == 2


def test_a_dead_client_has_its_own_name(federation, tmp_path, capsys):
    made = federation(adding_app())
    del made.grid.grid.contexts[2]
    _, rows = run(made, tmp_path, MethodPlan("fedavg", 1))
    assert "round 1: asked 3, answered 2; dead client000 (node 2)" in capsys.readouterr().err
    assert rows[-1].by_client[0] is None and rows[-1].clients == 2


def test_a_late_client_has_its_own_name(federation, tmp_path, capsys, monkeypatch):
    made = federation(adding_app())
    made.grid.timeout = 0.1
    pull = made.grid.grid.pull_messages
    late = "message-1"  # the first client's
    monkeypatch.setattr(made.grid.grid, "pull_messages", lambda names: pull(set(names) - {late}))
    run(made, tmp_path, MethodPlan("fedavg", 1))
    assert "late client000 (node 2)" in capsys.readouterr().err


@pytest.mark.parametrize(("code", "word"), [(3, "late"), (4, "late"), (5, "dead")])
def test_what_the_superlink_says_of_a_client_is_said_of_that_client(
    federation, tmp_path, capsys, monkeypatch, code, word
):
    made = federation(adding_app())
    answer = made.grid.grid._answer

    def silent(message):
        if message.metadata.dst_node_id == 2 and message.metadata.message_type == wire.TRAIN:
            return Message(Error(code, reason="unavailable"), reply_to=message)
        return answer(message)

    monkeypatch.setattr(made.grid.grid, "_answer", silent)
    run(made, tmp_path, MethodPlan("fedavg", 1))
    assert f"answered 2; {word} client000 (node 2)" in capsys.readouterr().err


def test_a_reply_that_flower_cannot_read_is_one_clients_failure(federation, tmp_path, capsys, monkeypatch):
    made = federation(adding_app())
    pull = made.grid.grid.pull_messages

    def broken(names):
        if "message-4" in names:  # of the first round, after three judgements
            raise ValueError("cannot be inflated")
        return pull(names)

    monkeypatch.setattr(made.grid.grid, "pull_messages", broken)
    _, rows = run(made, tmp_path, MethodPlan("fedavg", 1))
    assert "left out client000 (node 2): its reply cannot be read" in capsys.readouterr().err
    assert rows[-1].clients == 2


def test_a_stranger_is_not_asked(federation, tmp_path):
    asked = []
    made = federation(adding_app(asked))
    made.members = Members(made.members.all[:2], made.experiment.trusted_counts)
    weights, _ = run(made, tmp_path, MethodPlan("fedavg", 1))
    assert {number for number, _ in asked} == {0, 1}
    assert all(torch.allclose(tensor, torch.tensor(3 / 4)) for tensor in learned(weights))
    made.deliver(weights)
    assert {number for number, _ in asked} == {0, 1}


def test_a_part_of_the_clients_is_drawn_for_each_round(federation, tmp_path, experiment):
    asked = []
    few = experiment.rounds.model_copy(update={"participation": 0.34})
    made = federation(adding_app(asked), least=1, rounds=few)
    run(made, tmp_path)
    rounds = [
        [number for number, told in asked if told.get("server-round") == k and "proximal-mu" in told] for k in (1, 2, 3)
    ]
    assert [len(found) for found in rounds] == [1, 1, 1]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: t * float("nan"), "not finite"),
        (lambda t: t[None], "another model"),
        (lambda t: t.double(), "another model"),
    ],
)
def test_nonsense_is_named_and_left_out(federation, tmp_path, capsys, spoil, words):
    def last(number, weights):
        return weights if number < 2 else {name: spoil(tensor.float()) for name, tensor in weights.items()}

    weights, _ = run(federation(adding_app(spoil=last)), tmp_path, MethodPlan("fedavg", 1))
    said = capsys.readouterr().err
    assert "left out client002" in said and words in said
    assert all(torch.allclose(tensor, torch.tensor(3 / 4)) for tensor in learned(weights))


def test_whatever_a_client_says_of_its_steps_counters_stay_as_they_were():
    sent = {"norm.num_batches_tracked": torch.tensor(5)}
    for count in (5, 900, 2**63 - 1, -1):
        content = RecordDict({wire.ARRAYS: wire.weights_record({"norm.num_batches_tracked": torch.tensor(count)})})
        assert wire.weights_of(content, sent) == sent


def test_an_upload_that_answers_with_no_numbers_is_no_part_of_an_ensemble(federation, tmp_path, capsys):
    def huge(number, weights):
        factors = {name: 1e30 for name, tensor in weights.items() if tensor.is_floating_point() and number == 2}
        factors |= {name: -1e30 for name in factors if name.endswith("running_mean")}
        return {name: tensor * factors.get(name, 1) for name, tensor in weights.items()}

    made = federation(playing_app(huge), server=Aggregation(guard=False))
    start = {name: tensor + 1 for name, tensor in made.model.state_dict().items()}
    models, row = uploaded_models(made, start, tmp_path)
    assert len(models) == 2 and row.clients == 2
    assert "client002: its model answers with what are no numbers" in " ".join(capsys.readouterr().err.split())


def test_too_few_answers_end_the_run_until_it_is_run_again(federation, tmp_path):
    with pytest.raises(IncompleteError, match="1 clients sent sound weights, 2 are needed"):
        run(federation(adding_app(failing=(1, 2))), tmp_path)
    _, rows = run(federation(adding_app()), tmp_path)
    assert rows[-1].round == 3
