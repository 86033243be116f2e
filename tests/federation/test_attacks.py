"""Every hostile behaviour against honest clients: it is named or harmless, the run ends, and nobody else is blamed."""

import os

import numpy as np
import pytest
import torch
from playing_clients import GOOD, grid_of, members_of, near, playing_app, small_steps
from small_federation import CLASSES

from benchmarks.hostile import JUDGEMENTS, PAYLOADS, UPDATES, HostileApp
from fglfast.federation.aggregation import Aggregation
from fglfast.federation.client_app import app
from fglfast.federation.collect import collect_payloads
from fglfast.federation.federation import Federation
from fglfast.federation.grid import CountedGrid
from fglfast.federation.loopback import LoopbackGrid
from fglfast.federation.method_plan import MethodPlan
from fglfast.federation.rounds import PlannedRounds

HOSTILE = 3  # its number among four


def named(names):
    return {attack.name: attack for attack in names}.values()


@pytest.fixture(scope="module")
def file(experiment, tmp_path_factory):
    path = tmp_path_factory.mktemp("four") / "experiment.toml"
    four = experiment.partition.model_copy(update={"clients": 4, "kind": "iid"})
    path.write_text(experiment.model_copy(update={"partition": four}).to_toml())
    return path


@pytest.mark.parametrize("attack", named(PAYLOADS), ids=lambda attack: attack.name)
def test_a_hostile_payload(attack, file, experiment, tmp_path, capsys):
    grid = LoopbackGrid(HostileApp(app, attack, HOSTILE), range(4), {"experiment": str(file), "seed": 0})
    took = collect_payloads(CountedGrid(grid, timeout=10, least=2), experiment, CLASSES, tmp_path / "clients")
    honest = [f"client{number:03d}" for number in range(HOSTILE)]
    inside = [member.name for member in took.members]
    said = capsys.readouterr().err
    if attack.expected == "refused":
        assert inside == honest and f"left out node {HOSTILE + 2}" in said
    else:
        assert inside == [*honest, "client003"] and "'client003' claims" in said
    assert len(list((tmp_path / "clients").glob("*.safetensors"))) == len(inside)


@pytest.fixture
def start(model):
    """Weights that all begin with."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def federation(experiment, model):
    """Four members of an app, who claim so many images."""

    def make(app, claims=(9, 9, 9, 9), **changes):
        known = experiment.model_copy(update=changes)
        return Federation(grid_of(app, 4), members_of(claims), known, 0, CLASSES, model, lambda _: 0.5)

    return make


@pytest.fixture
def run(federation, start, tmp_path):
    def make(attack, rounds=3):
        made = federation(HostileApp(playing_app(judge=near(start)), attack, HOSTILE), (30, 40, 50, 60))
        return PlannedRounds(made, MethodPlan("fedavg", rounds)).run(start, tmp_path / "run")

    return make


@pytest.mark.parametrize("attack", named(UPDATES), ids=lambda attack: attack.name)
def test_hostile_weights(attack, run, capsys):
    weights, rows = run(attack)
    said = capsys.readouterr().err
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    assert rows[-1].round == 3 and rows[-1].median == GOOD and rows[-1].kept
    assert set(rows[-1].left_out) <= {"client003"}
    assert all(
        f"left out client00{number}" not in said and f"client00{number} is left out" not in said for number in range(3)
    )
    if attack.expected == "refused":
        assert rows[-1].clients == 3 and "client003" in said
    else:
        assert rows[-1].clients == 4 and "client003" not in said


@pytest.mark.parametrize("attack", named(JUDGEMENTS), ids=lambda attack: attack.name)
def test_hostile_judgements(attack, run, capsys):
    _, rows = run(attack)
    assert rows[-1].median == GOOD and rows[-1].clients == 4 and rows[-1].left_out == ()
    assert (rows[-1].by_client[HOSTILE] is None) == (attack.expected == "refused")
    assert ("client003" in capsys.readouterr().err) == (attack.expected == "refused")


@pytest.mark.parametrize("attack", named(UPDATES), ids=lambda attack: attack.name)
def test_what_a_client_says_is_one_line_that_is_safe_to_show(attack, run, capsys):
    run(attack, rounds=1)
    lines = [line for line in capsys.readouterr().err.splitlines() if "client003" in line]
    assert all(line.isprintable() and len(line) < 400 for line in lines)


def test_a_member_that_is_left_out_gets_no_model_and_is_not_asked_again(federation, start, tmp_path):
    asked = []
    attack = next(attack for attack in UPDATES if "30 times" in attack.name)
    made = federation(HostileApp(playing_app(judge=near(start), asked=asked), attack, HOSTILE))
    weights, rows = PlannedRounds(made, MethodPlan("fedavg", 3)).run(start, tmp_path)
    assert [row.left_out for row in rows] == [(), (), *[("client003",)] * 2]  # it turned away twice
    assert [row.away for row in rows[1:]] == [("client003",)] * 3 and [row.clients for row in rows[1:]] == [3] * 3
    assert [client for client, told in asked if told["server-round"] > 2].count(HOSTILE) == 0
    asked.clear()
    assert made.deliver(weights, rows[-1].left_out) == 3
    assert {client for client, _ in asked} == {0, 1, 2}


def test_one_step_away_from_the_others_is_forgiven(federation, start, tmp_path, capsys):
    """The hostile client reverses its first step alone: that round is without it, and then it counts again."""

    def once(number, weights):
        moved = small_steps(number, weights)
        first = all(torch.equal(weights[name], start[name]) for name in start)
        turned = {name: 2 * weights[name] - own for name, own in moved.items() if name.endswith("weight")}
        return {**moved, **turned} if number == HOSTILE and first else moved

    made = federation(playing_app(once, near(start)))
    _, rows = PlannedRounds(made, MethodPlan("fedavg", 3)).run(start, tmp_path)
    assert [row.away for row in rows] == [(), ("client003",), (), ()] and rows[-1].left_out == ()
    assert [row.clients for row in rows[1:]] == [3, 4, 4]
    assert "round 1 is without client003" in capsys.readouterr().err


def test_honest_clients_that_pull_an_average_apart_are_not_blamed(federation, start, tmp_path, capsys):
    """Each step is as long as another: whoever is left out, the average is as bad."""

    def far(number, weights):
        draw = torch.Generator().manual_seed(number)
        return {
            name: tensor + 3 * torch.randn(tensor.shape, generator=draw).abs() if tensor.is_floating_point() else tensor
            for name, tensor in weights.items()
        }

    made = federation(playing_app(far, near(start, most=1.0)))
    weights, rows = PlannedRounds(made, MethodPlan("fedavg", 1)).run(start, tmp_path)
    assert [row.kept for row in rows] == [True, False] and rows[-1].left_out == ()
    assert all(torch.equal(weights[name], start[name]) for name in start), "the last good weights stay"
    weights, rows = PlannedRounds(made, MethodPlan("fedavg", 2)).run(start, tmp_path)
    assert [row.kept for row in rows] == [True, False, True] and rows[-1].left_out == ()
    assert not any(torch.equal(weights[name], start[name]) for name in made.parameters), "else no round would count"
    assert "no client stands out" in capsys.readouterr().err


def test_whoever_is_blamed_is_no_part_of_a_round_that_counts_though_it_is_bad(federation, model, start, tmp_path):
    """FedAdam's steps lose what was known, round after round; from the second on one client's is 30 times as long."""
    trained = []

    def train(number, weights):
        moved = small_steps(number, weights)
        trained.append(number)
        if number != HOSTILE or trained.count(HOSTILE) < 2:
            return moved
        further = {name: weights[name] + 30 * (moved[name] - weights[name]) for name, _ in model.named_parameters()}
        return {**moved, **further}

    app = playing_app(train, near(start, most=1.0))
    made = federation(app, (30, 40, 50, 60), server=Aggregation(strategy="fedadam"))
    _, rows = PlannedRounds(made, MethodPlan("fedavg", 3)).run(start, tmp_path)
    assert [row.kept for row in rows][:3] == [True, False, True] and rows[-1].left_out == ("client003",)


@pytest.mark.fuzz
@pytest.mark.timeout(7200)
def test_no_random_reply_ends_a_run(federation, start, tmp_path):
    """2,000 rounds; every reply of the hostile client is spoilt in a way drawn anew."""
    draw = np.random.default_rng(0)
    attacks, honest = (*UPDATES, *JUDGEMENTS), playing_app(judge=near(start, most=1e9))

    def app(message, context):
        return HostileApp(honest, attacks[draw.integers(len(attacks))], HOSTILE)(message, context)

    for number in range(max(1, int(os.environ.get("FUZZ_ROUNDS", "2000")) // 10)):
        _, rows = PlannedRounds(federation(app), MethodPlan("fedavg", 10)).run(start, tmp_path / str(number))
        assert rows[-1].round == 10 and set(rows[-1].left_out) <= {"client003"}
        assert all(row.clients >= 3 for row in rows[1:])
