"""Rounds against clients that answer by rule: what is averaged, counted, kept and refused."""

import json

import pytest
import torch
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from small_federation import CLASSES

from fglfast.base.errors import FglError
from fglfast.federation import wire
from fglfast.federation.loopback import LoopbackGrid
from fglfast.federation.rounds import Federation, Plan
from fglfast.training.model import build_model

SIZES = {0: 1, 1: 3, 2: 6}  # images of each client


class KilledError(Exception):
    """Stands for a kill of the server."""


def adding_app(asked=None, failing=(), spoil=None):
    """A client whose weights after a round are those it got, plus its number; the last one may spoil its reply."""
    app = ClientApp()

    @app.train()
    def train(message, context):
        number = context.node_config["partition-id"]
        if number in failing:
            raise RuntimeError("broken disk")
        weights = wire.weights(message.content.array_records[wire.ARRAYS])
        weights = {name: tensor + number for name, tensor in weights.items()}
        metrics = MetricRecord({wire.EXAMPLES: SIZES[number], wire.LOSS: 0.0})
        if asked is not None:
            asked.append(dict(message.content.config_records[wire.CONFIG]))
        content = RecordDict({wire.ARRAYS: wire.weights_record(weights), wire.METRICS: metrics})
        reply = Message(content, reply_to=message)
        if spoil is not None and number == max(SIZES):
            spoil(reply)
        return reply

    @app.evaluate()
    def evaluate(message, context):
        number = context.node_config["partition-id"]
        metrics = MetricRecord({wire.EXAMPLES: SIZES[number], wire.RIGHT: number})
        return Message(RecordDict({wire.METRICS: metrics}), reply_to=message)

    return app


@pytest.fixture
def federation(experiment, tiny_arch):
    def make(app, least=2):
        torch.manual_seed(0)
        model = build_model(tiny_arch, CLASSES)
        grid = wire.CountedGrid(LoopbackGrid(app, list(SIZES), {}), timeout=10, least=least)
        return Federation(grid, experiment, 0, CLASSES, model, lambda model: 0.5)

    return make


def start(made):
    return {name: torch.zeros_like(tensor, dtype=torch.float32) for name, tensor in made.model.state_dict().items()}


def run(made, folder, plan=Plan("fedavg", 3)):  # noqa: B008 (a frozen plan)
    return made.run(plan, start(made), folder)


def test_clients_count_by_their_images(federation, tmp_path):
    weights, _ = run(federation(adding_app()), tmp_path)
    mean = (0 * 1 + 1 * 3 + 2 * 6) / 10
    assert all(torch.allclose(tensor, torch.tensor(3 * mean)) for tensor in weights.values())


def test_what_counts_batches_stays_whole(federation, tmp_path):
    made = federation(adding_app())
    fresh = {name: torch.zeros_like(tensor) for name, tensor in made.model.state_dict().items()}
    weights, _ = made.run(Plan("fedavg", 2), fresh, tmp_path)
    assert {name: tensor.dtype for name, tensor in weights.items()} == {name: t.dtype for name, t in fresh.items()}


def test_accuracy_counts_every_image_once_and_names_the_worst_client(federation, tmp_path):
    _, rows = run(federation(adding_app()), tmp_path)
    assert rows[-1].accuracy == pytest.approx((0 + 1 + 2) / 10)
    assert rows[-1].by_client == pytest.approx((0.0, 1 / 3, 2 / 6)) and rows[-1].worst_client == 0.0


def test_the_test_set_is_read_at_milestones_and_at_the_end_only(federation, tmp_path):
    _, rows = run(federation(adding_app()), tmp_path)
    assert [row.test_accuracy for row in rows] == [None, None, 0.5, 0.5]


def test_bytes_are_those_of_the_training_messages(federation, tmp_path):
    made = federation(adding_app())
    _, rows = run(made, tmp_path)
    one_way = wire.weights_record(start(made)).count_bytes()
    assert [row.bytes_up // (3 * one_way) for row in rows] == [0, 1, 2, 3]
    assert 3 * 3 * one_way <= rows[-1].bytes_down < 1.5 * 3 * 3 * one_way


def test_a_run_goes_on_after_the_last_round_and_ends_the_same(federation, tmp_path, monkeypatch):
    asked = []
    whole, rows = run(federation(adding_app()), tmp_path / "whole")
    made, calls = federation(adding_app(asked)), iter(range(100))

    def kill(weights, number):
        if next(calls) == 1:
            raise KilledError
        return weights

    plan = Plan("fedavg", 3, fine_tune=kill)
    with pytest.raises(KilledError):
        run(made, tmp_path / "killed", plan)
    asked.clear()
    weights, again = run(federation(adding_app(asked)), tmp_path / "killed")
    assert {call["server-round"] for call in asked} == {2, 3}
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
    plan = Plan("tuned", 2, fine_tune=lambda weights, number: {name: tensor * 0 for name, tensor in weights.items()})
    weights, _ = run(federation(adding_app()), tmp_path, plan)
    assert all(not tensor.any() for tensor in weights.values())


def test_fedprox_tells_its_clients(federation, tmp_path):
    asked = []
    run(federation(adding_app(asked)), tmp_path, Plan("fedprox", 1, proximal_mu=0.25))
    assert {call["proximal-mu"] for call in asked} == {0.25}


def test_a_failing_client_is_named_and_the_others_carry_on(federation, tmp_path, capsys):
    weights, _ = run(federation(adding_app(failing=(2,))), tmp_path)
    assert "broken disk" in capsys.readouterr().err
    assert all(torch.allclose(tensor, torch.tensor(3 * 3 / 4)) for tensor in weights.values())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda reply: reply.content.pop(wire.METRICS), "cannot be read"),
        (lambda reply: reply.content.pop(wire.ARRAYS), "cannot be read"),
        (lambda reply: reply.content[wire.METRICS].update({wire.EXAMPLES: -5}), "num-examples is -5"),
        (lambda reply: reply.content.update({wire.ARRAYS: changed(reply, lambda t: t * float("nan"))}), "not finite"),
        (lambda reply: reply.content.update({wire.ARRAYS: changed(reply, lambda t: t[None])}), "another model"),
    ],
)
def test_nonsense_is_named_and_left_out(federation, tmp_path, capsys, spoil, words):
    weights, _ = run(federation(adding_app(spoil=spoil)), tmp_path, Plan("fedavg", 1))
    said = capsys.readouterr().err
    assert "left out: " in said and words in said
    assert all(torch.allclose(tensor, torch.tensor(3 / 4)) for tensor in weights.values())


def changed(reply, change):
    weights = wire.weights(reply.content.array_records[wire.ARRAYS])
    return wire.weights_record({name: change(tensor.float()) for name, tensor in weights.items()})


def test_too_few_answers_end_the_run(federation, tmp_path):
    with pytest.raises(FglError, match="1 of 3 clients answered, 2 are needed"):
        run(federation(adding_app(failing=(1, 2))), tmp_path)
