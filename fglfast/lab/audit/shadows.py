"""Shadow models: the recipe that is attacked, run again on random halves of the images.

A shadow of FGL is the whole pipeline: payloads of the half, synthetic images, the model trained on those. A shadow of
FedAvg is all of its rounds. Each is an experiment of `fglfast run` with the same settings and a half as its data; what
its model says of all images, and what its server saw, is kept in one file, and the run is deleted. A file that is
there is not made again, so a larger number adds to those there.
"""

import hashlib
import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from fglfast.base.console import note
from fglfast.base.files import claim, write_atomic
from fglfast.federation.arena import run_experiment
from fglfast.federation.experiment import Experiment
from fglfast.federation.method_names import Method
from fglfast.images.labelled import LabelledImages
from fglfast.lab.audit.audited import NOBODY, AuditedImages
from fglfast.lab.audit.opened import Run
from fglfast.lab.audit.records import MODEL, View
from fglfast.lab.audit.roc import Bools, Floats
from fglfast.lab.audit.server import all_views, seen_by_server
from fglfast.pipeline.sources import generator_facts
from fglfast.training.batches import generator

CONTROL_EPOCHS = 60
INSIDE, ACCURACY = "inside", "accuracy"  # beside the views in a shadow's file


@dataclass(frozen=True)
class ShadowRun:
    """What is run on each half: a method of an experiment."""

    experiment: Experiment
    method: Method


@dataclass(frozen=True)
class Shadows:
    """The shadow models S of one recipe, on N images.

    Attributes:
        inside_SN: whether a model learned from an image.
        views: by what an attacker sees, what that says of it [S,N]; of the final model, its confidence.
        accuracies_S: of each on the experiment's test images.
    """

    inside_SN: Bools
    views: dict[View, Floats]
    accuracies_S: Floats


def control(experiment: Experiment) -> ShadowRun:
    """A recipe that learns its images by heart: all in one place, many epochs, no augmentation but small shifts.

    An attack that does not find these models' members has no power, and what it fails to find elsewhere means nothing.
    """
    local = experiment.local.model_copy(update={"flip": False, "erasing": 0.0, "weight_decay": 0.0, "epochs": 1})
    rounds = experiment.rounds.model_copy(update={"fedavg": CONTROL_EPOCHS, "milestones": ()})
    return ShadowRun(experiment.model_copy(update={"local": local, "rounds": rounds}), "centralized")


def train_shadows(
    recipes: Mapping[str, ShadowRun], pool: AuditedImages, number: int, seed: int, folder: Path, engines: Path
) -> dict[str, Shadows]:
    """Run each recipe on `number` random halves of a pool; what an earlier call left in the folder is read.

    The seed is that of the halves; a shadow's own draws have seeds of their own.

    Raises:
        BadInputError: the folder holds shadows of another pool, recipe or generator.
    """
    seen = hashlib.sha256(pool.pixels_N3SS.numpy().tobytes() + pool.images.labels.tobytes())
    facts = {"images": len(pool.images), "sha256": seen.hexdigest(), "seed": seed}
    claim(folder / "pool.json", facts, "shadows of other images")
    for drawing in {each.experiment.recipe for each in recipes.values() if each.method.startswith("fgl")}:
        claim(folder / "generator.json", generator_facts(drawing), "shadows of another generator", more=True)
    found: dict[str, list[Path]] = {name: [] for name in recipes}
    for shadow in range(number):
        half = np.sort(generator(seed, 4, shadow).permutation(len(pool.images))[: len(pool.images) // 2])
        work = folder / f"shadow-{shadow:03d}"
        for name, recipe in recipes.items():
            result = folder / f"shadow-{shadow:03d}-{name}.safetensors"
            settings = recipe.experiment.model_dump(mode="json", exclude={"methods", "seeds"})
            settings |= {"views": {MODEL: 1} | seen_by_server(recipe.experiment, recipe.method)}
            claim(folder / f"{name}.json", settings, "shadows of another recipe", more=True)
            if not result.exists():
                note(f"shadow {shadow + 1} of {number}: {name}")
                _train(recipe, pool, half, shadow + 1, work / name, engines, result)
            found[name].append(result)
        shutil.rmtree(work, ignore_errors=True)
    return {name: _read(paths) for name, paths in found.items()}


def _train(
    recipe: ShadowRun, pool: AuditedImages, half: NDArray[np.int64], seed: int, work: Path, engines: Path, result: Path
) -> None:
    """One shadow: its experiment in `work`, its result in a file."""
    data = work / "images.parquet"
    if not data.exists():
        work.mkdir(parents=True, exist_ok=True)
        write_parquet(pool.images.select(half), data)
    experiment = recipe.experiment.model_copy(
        update={
            "data": str(data),
            "methods": (recipe.method,),
            "seeds": (seed,),
            "rounds": recipe.experiment.rounds.model_copy(update={"milestones": ()}),
        }
    )
    arena = run_experiment(experiment, work / "run", engines)
    run = Run(work / "run", experiment, seed, pool.images.class_names)
    rows = {f"row {place}": int(row) for place, row in enumerate(half)}
    holders_N, views = all_views(run, recipe.method, pool, rows)
    facts = {INSIDE: holders_N != NOBODY, ACCURACY: np.array([arena.results[0].test_accuracy])}
    write_atomic(result, save({**facts, **{str(view): scores_N for view, scores_N in views.items()}}))


def write_parquet(dataset: LabelledImages, path: Path) -> None:
    """Images as PNG with the names of their classes, as `read_dataset` reads them: row k is image k."""
    contents = []
    for index in range(len(dataset)):
        buffer = io.BytesIO()
        dataset.image(index).save(buffer, "PNG")
        contents.append(buffer.getvalue())
    labels = [dataset.class_names[label] for label in dataset.labels.tolist()]
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"image": contents, "label": labels}), sink)
    write_atomic(path, sink.getvalue())


def _read(paths: Sequence[Path]) -> Shadows:
    found = [load_file(path) for path in paths]
    return Shadows(
        np.stack([one[INSIDE] for one in found]),
        {view: np.stack([one[view] for one in found]) for view in get_args(View) if view in found[0]},
        np.concatenate([one[ACCURACY] for one in found]),
    )
