"""The methods compared, each as a plan on the same clients, model and test images.

Centralized training is FedAvg with one client that holds everything, local-only training FedAvg with each client alone:
the same loop, optimiser and number of epochs for all.
"""

import shutil
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from fglfast.base.console import note
from fglfast.base.errors import FglError
from fglfast.base.files import file_digest
from fglfast.federation import wire
from fglfast.federation.alone import public_only, server_only
from fglfast.federation.collect import (
    COLLECTED,
    Collected,
    collect_again,
    collect_payloads,
    merged_payloads,
    take_place,
)
from fglfast.federation.dense import distill_ensemble
from fglfast.federation.ensemble import Ensemble, uploaded_models
from fglfast.federation.experiment import Experiment
from fglfast.federation.federation import Federation
from fglfast.federation.grid import CountedGrid, Meter
from fglfast.federation.history import together
from fglfast.federation.method_names import ALONE, METHODS, Method
from fglfast.federation.method_plan import MethodPlan
from fglfast.federation.moments import fill_head
from fglfast.federation.own_images import own_images
from fglfast.federation.records import Result, RoundRow
from fglfast.federation.rounds import PlannedRounds
from fglfast.federation.wire import Weights
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import LabelledImages
from fglfast.pipeline.one_shot import one_shot
from fglfast.pipeline.stages import Stages
from fglfast.training.augment import Augmentation
from fglfast.training.batches import TrainingData
from fglfast.training.launch import train
from fglfast.training.model import build_model, linear_head, save_model, write_weights
from fglfast.training.predict import count_right, placed
from fglfast.training.prototypes import Prototypes, load_prototypes, save_prototypes, synthetic_prototypes
from fglfast.training.results import WEIGHTS

Grids = Callable[[Method], list[CountedGrid]]


class SeededExperiment:
    """One experiment with one seed: what all methods share.

    Every method has a folder below `out`, and asks the grid or the grids that `grids` makes for it. The images it is
    tested on, `test`, say which classes there are.
    """

    def __init__(
        self, experiment: Experiment, test: LabelledImages, seed: int, out: Path, engines: Path, grids: Grids
    ) -> None:
        self.experiment, self.seed, self.out, self.engines, self.grids = experiment, seed, out, engines, grids
        self.shot = out / "one-shot"
        self.class_names = test.class_names
        self.accuracy = partial(_accuracy, TrainingData.of(test, experiment.image_size, 0.0, seed=0))
        torch.manual_seed(seed)
        fresh = build_model(experiment.train.arch, self.class_names)
        self.fresh = _weights_of(fresh)
        self.model = placed(fresh)

    def run(self, method: Method) -> Result:
        """One method, or what is left of it; a finished one is read."""
        folder = self.out / method
        if (folder / "result.json").exists():
            return Result.model_validate_json((folder / "result.json").read_bytes())
        grids = self.grids(method)
        found = [self._one(method, grid, folder / str(number)) for number, grid in enumerate(grids)]
        last = [rows[-1].test_accuracy or 0.0 for _, rows in found]
        result = Result(
            method=method,
            seed=self.seed,
            test_accuracy=float(np.mean(last)),
            worst_test=min(last) if len(last) > 1 else None,
            rows=together([rows for _, rows in found]),
            model_bytes=wire.weights_record(self.fresh).count_bytes(),
        )
        if len(found) == 1 and found[0][0]:
            self._save(found[0][0], folder / "model", self._synthetic(method, folder))
            if self.experiment.adapt:
                weights, prototypes = self._saved(folder / "model")
                federation, left_out = self._federation(grids[0], method), result.rows[-1].left_out
                said = federation.adapt(weights, prototypes, self.experiment.adapt, left_out) if prototypes else None
                result = result.model_copy(update={"adapted": said})
        result.save(folder / "result.json")
        return result

    def deliver(self, grid: CountedGrid, method: Method) -> int:
        """Send a finished method's model to the clients; returns how many kept it."""
        left_out = self.run(method).rows[-1].left_out
        if not (self.out / method / "model" / WEIGHTS).exists():
            note(f"{method} is several models: they stay at the server, in {self.out / method}")
            return 0
        weights, prototypes = self._saved(self.out / method / "model")
        return self._federation(grid, method).deliver(weights, left_out, prototypes)

    def collect_again(self, grid: CountedGrid) -> None:
        """Ask the clients for their payloads anew; where those differ, methods are run again on what they sent now.

        The synthetic images that stay are kept; the results of before are set aside in `before-N`.
        """
        clients = self.shot / "clients"
        if not (clients / COLLECTED).exists():
            return
        fresh = collect_again(grid, self.experiment, self.class_names, clients)
        if fresh is None:
            return
        earlier = next(folder for number in count(1) if not (folder := self.out / f"before-{number}").exists())
        for done in [self.out / method for method in METHODS] + [self.shot / "row.json"]:
            if done.exists():
                earlier.mkdir(exist_ok=True)
                done.rename(earlier / done.name)
                note(f"{done} is of the clients as they were, and lies in {earlier / done.name} now")
        take_place(fresh, clients)

    def _save(self, weights: Weights, folder: Path, synthetic: Path | None) -> None:
        """Write a finished model, with prototypes if it learned from a folder of synthetic images."""
        self.model.load_state_dict(weights)
        if synthetic is not None and linear_head(self.model):
            save_prototypes(synthetic_prototypes(self.model, synthetic, self.experiment.image_size), folder)
        save_model(self.model, folder, self.experiment.image_size)

    def _saved(self, folder: Path) -> tuple[Weights, Prototypes | None]:
        return load_file(folder / WEIGHTS), load_prototypes(folder, self.model)

    def _synthetic(self, method: Method, folder: Path) -> Path | None:
        """The synthetic images that a method's final model has learned from."""
        if method == "server-only":
            return folder / "0" / "synthetic"
        return self.shot / "synthetic" if method.startswith("fgl") else None

    def _federation(self, grid: CountedGrid, method: Method, alone: Path | None = None) -> Federation:
        """The clients of a grid; `alone` is the folder of one that a method asks by itself."""
        members = self._collected(grid, alone).members
        synthetic = self.shot / "synthetic" if method.startswith("fgl-") else None
        own = own_images(self.experiment, self.class_names, synthetic)
        check = None if own is None else partial(_accuracy, own)
        shared = self.experiment.chosen_for(method), self.seed, self.class_names, self.model
        return Federation(grid, members, *shared, self.accuracy, check)

    def _collected(self, grid: CountedGrid, alone: Path | None = None) -> Collected:
        """Who is in, asked once for all methods."""
        if alone is None:
            return collect_payloads(grid, self.experiment, self.class_names, self.shot / "clients")
        plain = self.experiment.model_copy(update={"prompt_level": "class", "inventory": None})
        return collect_payloads(grid, plain, self.class_names, alone / "clients")

    def _one(self, method: Method, grid: CountedGrid, folder: Path) -> tuple[Weights, list[RoundRow]]:
        """The weights that a method ends with, none where it ends with several models, and its rows."""
        rounds = self.experiment.chosen_for(method).rounds
        if method in ALONE:
            return self._alone(self._federation(grid, method), method, folder)
        if method == "fedcgs":
            return self._closed_form(self._federation(grid, method), grid)
        if method == "ensemble":
            models, row = uploaded_models(self._federation(grid, method), self.fresh, folder)
            return {}, [row.model_copy(update={"test_accuracy": self.accuracy(Ensemble(self.model, models))})]
        if method == "dense":
            return self._distilled(grid)
        if not method.startswith("fgl"):
            alone = folder if method in ("centralized", "local") else None
            plan = MethodPlan(method, rounds.fedavg, rounds.proximal_mu if method == "fedprox" else 0.0)
            return PlannedRounds(self._federation(grid, method, alone), plan).run(self.fresh, folder)
        weights, first = self._first_shot(grid)
        if method == "fgl":
            return weights, [first]
        tune = None if method == "fgl-rounds" else partial(self._tuned, folder)
        plan = MethodPlan(method, rounds.fgl, fine_tune=tune, asks=method != "fgl-longer")
        return PlannedRounds(self._federation(grid, method), plan).run(weights, folder, first)

    def _alone(self, federation: Federation, method: Method, folder: Path) -> tuple[Weights, list[RoundRow]]:
        """What needs no client; those only say how well it does on the images that they hold out."""
        experiment, stages = self.experiment, Stages(folder)
        if method == "public-only":
            public = read_dataset(experiment.public).named(self.class_names)
            trained = public_only(public, experiment.public_training, self.seed, folder, stages)
        else:
            trained = server_only(experiment, self.class_names, self.seed, folder, self.engines, stages)
        weights = load_file(trained.model / WEIGHTS)
        row = federation.judge(weights, 0, milestone=True)
        return weights, [row.model_copy(update={"server_seconds": round(stages.seconds, 3)})]

    def _closed_form(self, federation: Federation, grid: CountedGrid) -> tuple[Weights, list[RoundRow]]:
        """The server's own network with a head from the moments of the clients' features: one round."""
        before = self.run("server-only").rows[-1]
        weights = load_file(self.out / "server-only" / "model" / WEIGHTS)
        meter = Meter(grid)
        moments = federation.moments(weights)
        asked, answered = meter.read(), time.monotonic()
        self.model.load_state_dict(weights)
        fill_head(self.model, moments)
        made = _weights_of(self.model)
        if not wire.is_finite(made):
            raise FglError("the moments of the clients' features make no classifier", "see which client is at fault")
        spent = {**asked, "server_seconds": round(before.server_seconds + time.monotonic() - answered, 3)}
        return made, [federation.judge(made, 0, milestone=True).model_copy(update=spent)]

    def _distilled(self, grid: CountedGrid) -> tuple[Weights, list[RoundRow]]:
        """The ensemble's models made one, without data: its bytes, and the seconds of distilling them."""
        self.run("ensemble")
        folder, begun = self.out / "ensemble" / "0", time.monotonic()
        models, row = uploaded_models(self._federation(grid, "ensemble"), self.fresh, folder)
        teachers = list(Ensemble(self.model, models).models)
        self.model.load_state_dict(self.fresh)
        training = self.experiment.train
        augment = Augmentation(self.experiment.image_size, training.crop_padding, training.flip, erasing=0.0)
        distill_ensemble(teachers, self.model, len(self.class_names), augment, self.experiment.dense, self.seed)
        made = _weights_of(self.model)
        kept = ("bytes_down", "bytes_up", "client_seconds", "clients")
        spent = {"server_seconds": round(time.monotonic() - begun, 3), **row.model_dump(include=set(kept))}
        return made, [self._federation(grid, "dense").judge(made, 0, milestone=True).model_copy(update=spent)]

    def _first_shot(self, grid: CountedGrid) -> tuple[Weights, RoundRow]:
        """The one-shot model and its row, made once for all methods that begin with it."""
        path = self.shot / "row.json"
        if not path.exists():
            took = self._collected(grid)
            merged = merged_payloads(self.shot / "clients", self.experiment)
            stages = Stages(self.shot)
            made = one_shot(merged, self.experiment, self.seed, self.shot, self.engines, stages)
            spent = {
                "bytes_down": took.bytes_down,
                "bytes_up": took.bytes_up,
                "client_seconds": took.seconds,
                "server_seconds": round(stages.seconds, 3),
            }
            weights = load_file(made.trained.model / WEIGHTS)
            row = self._federation(grid, "fgl").judge(weights, 0, milestone=True).model_copy(update=spent)
            row.save(path)
        return load_file(self.shot / "model" / WEIGHTS), RoundRow.model_validate_json(path.read_bytes())

    def _tuned(self, folder: Path, weights: Weights, number: int) -> Weights:
        return fine_tune(weights, self.shot / "synthetic", self.experiment, self.seed + number, folder / "tune")


def fine_tune(weights: Weights, synthetic: Path, experiment: Experiment, seed: int, folder: Path) -> Weights:
    """Train an average further on the synthetic images.

    The work's folder is named `folder` with a digest of what it begins from, so that a killed one is gone on with from
    equal weights alone; those of others are removed first, and its own in the end.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    initial = folder.with_name(f"{folder.name}.safetensors")
    write_weights(weights, initial)
    work = folder.with_name(f"{folder.name}-{file_digest(initial)[:16]}")
    for other in folder.parent.glob(f"{folder.name}*"):
        if other.is_dir() and other != work:
            shutil.rmtree(other)
    rounds = experiment.rounds
    changes = {"seed": seed, "initial": initial, "epochs": rounds.fine_tune_epochs}
    changes |= {"learning_rate": rounds.fine_tune_rate, "warmup_share": 0.0}
    trained = train(synthetic, work, experiment.train.model_copy(update=changes), "auto")
    tuned = load_file(trained.model / WEIGHTS)
    shutil.rmtree(work)
    initial.unlink()
    return tuned


def _weights_of(model: nn.Module) -> Weights:
    return {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}


def _accuracy(images: TrainingData, model: nn.Module) -> float:
    return count_right(model, images, images.train) / len(images.labels)
