"""The methods compared, each as a plan on the same clients, model and test images. Knows no page and no transport.

Centralized training is FedAvg with one client that holds everything, local-only training FedAvg with each client alone:
the same loop, optimiser and number of epochs for all.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fglfast.config import Settings
from fglfast.dataset import read_dataset
from fglfast.federation import wire
from fglfast.federation.experiment import Experiment, Method
from fglfast.federation.local import ClientImages, count_right
from fglfast.federation.oneshot import fine_tune, one_shot
from fglfast.federation.rounds import Federation, Plan, Row, Weights
from fglfast.files import write_atomic
from fglfast.training.model import build_model

Grids = Callable[[Method], list[wire.CountedGrid]]


class Result(Settings):
    """One method with one seed.

    Attributes:
        method: its name.
        seed: of partition, weights and draws.
        test_accuracy: on the real test images, read once at the end (local-only: mean over the clients' models).
        worst_test: the lowest of several models; None for one.
        rows: what was seen on the way.
        model_bytes: of one copy of the weights as it travels.
        seconds: wall time of all of it.
    """

    method: Method
    seed: int
    test_accuracy: float
    worst_test: float | None = None
    rows: tuple[Row, ...]
    model_bytes: int
    seconds: float


class Contest:
    """One experiment with one seed: what all methods share.

    Args:
        experiment: what is run.
        seed: of partition, weights and draws.
        out: its folder; every method has one below it.
        engines: folder of compiled engines.
        grids: the grid or grids that a method asks.
    """

    def __init__(self, experiment: Experiment, seed: int, out: Path, engines: Path, grids: Grids) -> None:
        self.experiment, self.seed, self.out, self.engines, self.grids = experiment, seed, out, engines, grids
        test = read_dataset(experiment.test)
        self.class_names = test.class_names
        self.test_images = ClientImages.prepare(test, experiment.image_size, 0.0, seed=0)
        torch.manual_seed(seed)
        self.model = build_model(experiment.train.arch, self.class_names).to(memory_format=torch.channels_last)
        self.fresh: Weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def run(self, method: Method) -> Result:
        """One method, or what is left of it; a finished one is read."""
        folder = self.out / method
        if (folder / "result.json").exists():
            return Result.model_validate_json((folder / "result.json").read_bytes())
        begun = time.monotonic()
        found = [self._one(method, grid, folder / str(number)) for number, grid in enumerate(self.grids(method))]
        last = [rows[-1].test_accuracy or 0.0 for _, rows in found]
        result = Result(
            method=method,
            seed=self.seed,
            test_accuracy=float(np.mean(last)),
            worst_test=min(last) if len(last) > 1 else None,
            rows=tuple(found[0][1]),
            model_bytes=wire.weights_record(self.model).count_bytes(),
            seconds=round(time.monotonic() - begun, 1),
        )
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "result.json", result.model_dump_json(indent=1) + "\n")
        return result

    def deliver(self, grid: wire.CountedGrid, method: Method) -> int:
        """Send a finished method's model to the clients; returns how many kept it."""
        federation = Federation(grid, self.experiment, self.seed, self.model, self.accuracy)
        weights, _ = self._one(method, grid, self.out / method / "0")
        return federation.deliver(weights)

    def accuracy(self, model: nn.Module) -> float:
        """Of a model on the real test images."""
        return count_right(model, self.test_images, self.test_images.train) / len(self.test_images.labels)

    def _one(self, method: Method, grid: wire.CountedGrid, folder: Path) -> tuple[Weights, list[Row]]:
        federation = Federation(grid, self.experiment, self.seed, self.model, self.accuracy)
        rounds = self.experiment.rounds
        if not method.startswith("fgl"):
            plan = Plan(method, rounds.fedavg, rounds.proximal_mu if method == "fedprox" else 0.0)
            return federation.run(plan, self.fresh, federation.judge(self.fresh, 0, milestone=False), folder)
        shot, first = self._first_shot(federation, grid)
        if method == "fgl":
            return shot, [first]
        tune = partial(self._tuned, folder) if method == "fgl-rounds-finetune" else None
        return federation.run(Plan(method, rounds.fgl, fine_tune=tune), shot, first, folder)

    def _first_shot(self, federation: Federation, grid: wire.CountedGrid) -> tuple[Weights, Row]:
        """The one-shot model and its row, made once for all methods that begin with it."""
        folder, path = self.out / "one-shot", self.out / "one-shot" / "row.json"
        shot = one_shot(grid, self.experiment, self.seed, folder, self.engines)
        if path.exists():
            return shot.weights, Row.model_validate_json(path.read_bytes())
        spent = {"bytes_down": grid.down, "bytes_up": grid.up, "server_seconds": round(shot.seconds, 3)}
        row = federation.judge(shot.weights, 0, milestone=True).model_copy(update=spent)
        write_atomic(path, json.dumps(row.model_dump(mode="json"), indent=1) + "\n")
        return shot.weights, row

    def _tuned(self, folder: Path, weights: Weights, number: int) -> Weights:
        return fine_tune(
            weights, self.out / "one-shot" / "synthetic", self.experiment, self.seed + number, folder / "tune"
        )
