"""Communication rounds by Flower's FedAvg, each one saved: a killed run goes on after the last. Knows no baseline."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Message
from flwr.serverapp.strategy import FedAvg
from safetensors.torch import load_file
from transformers import PreTrainedModel

from fglfast.base.config import Settings
from fglfast.base.console import Progress
from fglfast.base.files import write_atomic
from fglfast.federation import wire
from fglfast.federation.experiment import Experiment
from fglfast.federation.wire import Weights
from fglfast.training.model import write_weights


class Row(Settings):
    """The state of things after a round; bytes and seconds are sums over all rounds so far.

    Attributes:
        round: 0 is before the first.
        accuracy: on the clients' held-out images, each image counting once.
        worst_client: the lowest accuracy of a client on its own.
        by_client: all of them; None for a client with too few images to hold one out.
        test_accuracy: on the real test images, at milestones only.
        bytes_down: to all clients.
        bytes_up: from all clients.
        server_seconds: synthesis, training and averaging.
        client_seconds: waiting for clients.
        clients: how many answered.
    """

    round: int
    accuracy: float
    worst_client: float
    by_client: tuple[float | None, ...]
    test_accuracy: float | None = None
    bytes_down: int = 0
    bytes_up: int = 0
    server_seconds: float = 0.0
    client_seconds: float = 0.0
    clients: int = 0


@dataclass(frozen=True)
class Plan:
    """What distinguishes one federated method from another.

    Attributes:
        name: of the method.
        rounds: how many.
        proximal_mu: FedProx's; 0 for FedAvg.
        fine_tune: what the server does with the average before it is sent again.
    """

    name: str
    rounds: int
    proximal_mu: float = 0.0
    fine_tune: Callable[[Weights, int], Weights] | None = None


class Federation:
    """A grid, an experiment and one seed of it.

    Args:
        grid: whose traffic is weighed.
        experiment: what is run.
        seed: of weights and draws.
        class_names: the classes, in the order of the model's labels.
        model: the global model's architecture; its weights are used as a place to load others into.
        test: accuracy of weights on the real test images.
    """

    def __init__(
        self,
        grid: wire.CountedGrid,
        experiment: Experiment,
        seed: int,
        class_names: tuple[str, ...],
        model: PreTrainedModel,
        test: Callable[[PreTrainedModel], float],
    ) -> None:
        self.grid, self.experiment, self.seed, self.class_names = grid, experiment, seed, class_names
        self.model, self.test = model, test
        self.average = FedAvg()

    def run(self, plan: Plan, weights: Weights, folder: Path, before: Row | None = None) -> tuple[Weights, list[Row]]:
        """All rounds of a method, from some weights; rows begin with `before`, or with what clients say of those."""
        restored = _restored(folder)
        rows, weights = restored or ([before or self.judge(weights, 0, milestone=False)], weights)
        with Progress(plan.name, total=plan.rounds, start=len(rows) - 1, unit="round") as progress:
            for number in range(len(rows), plan.rounds + 1):
                weights, row = self._round(plan, weights, rows[-1], number)
                rows.append(row)
                _save(folder, weights, rows)
                progress.advance(1, accuracy=f"{row.accuracy:.3f}")
        return weights, rows

    def judge(self, weights: Weights, number: int, milestone: bool) -> Row:
        """Weights on every client's held-out images, and on the test images at a milestone."""
        replies = self._ask(wire.EVALUATE, weights, {"server-round": number})
        metrics = [wire.metrics(reply) for reply in replies]
        right, images = ([int(found[key]) for found in metrics] for key in (wire.RIGHT, wire.EXAMPLES))
        shares = tuple(r / n if n else None for r, n in zip(right, images, strict=True))
        return Row(
            round=number,
            accuracy=sum(right) / max(1, sum(images)),
            worst_client=min((share for share in shares if share is not None), default=0.0),
            by_client=shares,
            test_accuracy=self.test(self._with(weights)) if milestone else None,
            clients=len(replies),
        )

    def deliver(self, weights: Weights) -> int:
        """Send the final model to every client; returns how many kept it."""
        replies = self._ask(wire.DELIVER, weights, {})
        return sum(int(wire.metrics(reply)[wire.KEPT]) for reply in replies)

    def _round(self, plan: Plan, weights: Weights, last: Row, number: int) -> tuple[Weights, Row]:
        down, up, begun = self.grid.down, self.grid.up, time.monotonic()
        asked = {"server-round": number, "proximal-mu": plan.proximal_mu}
        replies = self._ask(wire.TRAIN, weights, asked)
        answered = time.monotonic()
        weights = self._average(number, replies)
        if plan.fine_tune:
            weights = plan.fine_tune(weights, number)
        averaged = time.monotonic()
        # Judging is for the curve, not for the method: neither its bytes nor its time count.
        spent_down, spent_up = self.grid.down - down, self.grid.up - up
        row = self.judge(weights, number, number == plan.rounds or number in self.experiment.rounds.milestones)
        return weights, row.model_copy(
            update={
                "bytes_down": last.bytes_down + spent_down,
                "bytes_up": last.bytes_up + spent_up,
                "client_seconds": round(last.client_seconds + answered - begun, 3),
                "server_seconds": round(last.server_seconds + averaged - answered, 3),
            }
        )

    def _average(self, number: int, replies: list[Message]) -> Weights:
        """The clients' weights, averaged; whole numbers, as batch norms count batches, stay whole."""
        arrays, _ = self.average.aggregate_train(number, replies)
        assert arrays is not None, "asking makes sure of replies"
        kinds = wire.weights(replies[0].content.array_records[wire.ARRAYS])
        return {name: tensor.to(kinds[name].dtype) for name, tensor in wire.weights(arrays).items()}

    def _ask(self, message_type: str, weights: Weights, asked: Mapping[str, int | float]) -> list[Message]:
        common = {
            "model": self.model.config.to_json_string(use_diff=False),
            "class-names": list(self.class_names),
            "image-size": self.experiment.image_size,
            "validation-share": self.experiment.validation_share,
            "local": self.experiment.local.model_dump_json(),
            "seed": self.seed,
        }
        return self.grid.ask(
            message_type, {wire.ARRAYS: wire.weights_record(weights), **wire.config(**common, **asked)}
        )

    def _with(self, weights: Weights) -> PreTrainedModel:
        self.model.load_state_dict(weights)
        return self.model


def _save(folder: Path, weights: Weights, rows: list[Row]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(weights, folder / f"weights-{rows[-1].round:04d}.safetensors")
    write_atomic(folder / "rounds.json", json.dumps([row.model_dump(mode="json") for row in rows], indent=1) + "\n")
    for old in folder.glob("weights-*.safetensors"):
        if old.name != f"weights-{rows[-1].round:04d}.safetensors":
            old.unlink()


def _restored(folder: Path) -> tuple[list[Row], Weights] | None:
    """Rows until the last round that was saved, and its weights."""
    if not (folder / "rounds.json").exists():
        return None
    rows = [Row.model_validate(row) for row in json.loads((folder / "rounds.json").read_text(encoding="utf-8"))]
    return rows, load_file(folder / f"weights-{rows[-1].round:04d}.safetensors")
