"""Clients without labels: what a classifier that the server trained alone finds out about their images.

The server draws from the list of classes alone and trains a classifier; each client labels its images with it. Settings
are chosen on clients made of the public images, as the first seed's classifier sees them, and judged once on clients of
the private ones: which classes a client holds, how many images of each, and what becomes of the global model when
clients send captions under the labels that they found. Beside the chosen settings stand the classifier's own answers,
the papers' term for classes that are alike, and the EM that knows of no neighbours: each at its own best on the public
images. The global models are trained last, so that `--no-train` tells all else soon.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.epsilon import write_captions
from benchmarks.global_model import SMALL, accuracy
from benchmarks.results_file import once, save_result
from fglfast.client.embed import embed
from fglfast.client.partial_transport import joins, transport
from fglfast.client.pseudo_labels import LabelSettings, PseudoLabels, labelled, labels_of
from fglfast.engine.build import build_engine
from fglfast.engine.recipe import Recipe, find_recipe
from fglfast.federation.alone import server_only
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import LabelledImages
from fglfast.images.partition import partition_dirichlet
from fglfast.payload import Payload
from fglfast.payload.merge import merge_payloads
from fglfast.pipeline.settings import OneShot
from fglfast.pipeline.stages import Stages
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.training.batches import DecodedImages
from fglfast.training.evaluate import open_classifier
from fglfast.training.predict import features_and_logits

CLIENTS, PUBLIC_SEED = 5, 100  # the public clients are other draws than the private ones
SKEWED = 0.01  # beta of the main table
MANY, NEAR = 50, 0.1  # a class of so many images has to be counted so nearly
LABELLED, ARGMAX, ALIKE, EM, CHOSEN = "labelled", "argmax", "classes alike", "EM", "transport"
KEEP = {"confidence": (0.0, 0.5, 0.8), "least_images": (5, 1, 20, 50)}  # of equals the first
GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    ARGMAX: {},
    ALIKE: {"imbalance": (0.1, 1.0), "agreement": (1.0, 3.0), "mass": (1.0,)},
    EM: {"imbalance": (-1.0,), "agreement": (0.0,), "mass": (1.0,)},
    CHOSEN: {"imbalance": (-1.0, -0.8, -0.6), "agreement": (1.0, 3.0), "mass": (0.9, 1.0)},
}
TRAINED = (LABELLED, ARGMAX, CHOSEN)


@dataclass(frozen=True)
class Bench:
    """What all clients and seeds share."""

    sets: dict[str, LabelledImages]
    work: Path
    beta: float
    seeds: int
    base: Recipe
    engines: Path
    images_per_class: int


@dataclass(frozen=True)
class Seen:
    """What the classifier sees of one client's images.

    Attributes:
        rows: which images of the split.
        truth: their labels [N].
        log_P_NK: logarithms of the classifier's probabilities.
        joined_NN: which images are near.
    """

    rows: NDArray[np.int64]
    truth: NDArray[np.int64]
    log_P_NK: NDArray[np.float32]
    joined_NN: Any


def main(
    data: Annotated[str, typer.Option(help="Holds the splits public, private and test.")],
    work: Annotated[Path, typer.Option(help="What is finished; a second call redoes none.")] = Path("runs/unlabelled"),
    engines: Path = Path("engines/build"),
    recipe: str = "mini-few",
    beta: float = SKEWED,
    server_images: Annotated[int, typer.Option(help="Images a class of the server's own classifier.")] = 300,
    images_per_class: Annotated[int, typer.Option(help="Images a class of the global models.")] = 60,
    seeds: int = 3,
    train: Annotated[bool, typer.Option(help="Train the global models, too.")] = True,
) -> None:
    """Train the server's classifiers, choose on public clients, judge on private ones; save the table."""
    sets = {split: read_dataset(f"{data}:{split}") for split in ("public", "private", "test")}
    base = find_recipe(recipe)
    asked = OneShot(recipe=recipe, images_per_class=server_images, train=SMALL)
    bench = Bench(sets, work, beta, seeds, base, engines, images_per_class)
    for seed in range(seeds):
        folder = work / f"server-{seed}"
        server_only(asked, sets["test"].class_names, seed, folder, engines, Stages(folder))
    chosen = {arm: once(work / f"choice-{beta:g}-{arm}.json", partial(choose, arm, bench)) for arm in GRIDS}
    typer.echo(json.dumps(chosen))
    found: dict[str, list[dict[str, Any]]] = {
        arm: [{"seed": seed} for seed in range(seeds)] for arm in (LABELLED, *GRIDS)
    }
    for seed in range(seeds):
        private = list(clients(bench, "private", seed, seed))
        labels = {arm: [label(arm, one, chosen[arm]["settings"]) for one in private] for arm in GRIDS}
        for arm, own in labels.items():
            found[arm][seed] |= judged(private, own)
            typer.echo(json.dumps({"labels": arm, **found[arm][seed]}))
        for arm in TRAINED if train else ():
            folder = work / f"global-{beta:g}-{images_per_class}-{arm}-{seed}"
            model = partial(global_accuracy, bench, private, labels.get(arm), folder, seed)
            found[arm][seed]["global"] = once(folder / "global.json", model)
            typer.echo(json.dumps({"labels": arm, **found[arm][seed]}))
    facts = {"clients": CLIENTS, "beta": beta, "recipe": recipe, "server_images": server_images}
    rows = [{"labels": arm, **chosen.get(arm, {}), "runs": runs} for arm, runs in found.items()]
    save_result(
        "unlabelled" if beta == SKEWED else f"unlabelled-{beta:g}",
        {**facts, "images_per_class": images_per_class, "rows": rows},
    )


def clients(bench: Bench, split: str, seed: int, draw: int) -> Iterator[Seen]:
    """A split dealt out to clients, each as the classifier of a seed sees it."""
    folder, images = bench.work / f"server-{seed}", bench.sets[split]
    file = folder / f"seen-{split}.npz"
    if not file.exists():
        network, _, size = open_classifier(folder / "model")
        features_NF, logits_NK = features_and_logits(network, DecodedImages(images, size), f"classify {split}")
        partly = file.with_name(f"partly-{split}.npz")
        np.savez(partly, features=features_NF.numpy(), log_P=logits_NK.log_softmax(1).numpy())
        partly.rename(file)
    seen = np.load(file)
    features, log_P_NK = seen["features"], seen["log_P"]
    for rows in partition_dirichlet(images.labels, CLIENTS, bench.beta, draw):
        yield Seen(rows, images.labels[rows], log_P_NK[rows], joins(features[rows], LabelSettings().neighbours))


def choose(arm: str, bench: Bench) -> dict[str, Any]:
    """Of a way to label, the settings that find classes and counts of the public clients best."""
    public = [one for draw in range(bench.seeds) for one in clients(bench, "public", 0, PUBLIC_SEED + draw)]
    best: dict[str, Any] = {"score": -1.0}
    for values in product(*GRIDS[arm].values()):
        moved = dict(zip(GRIDS[arm], values, strict=True))
        plans = [plan(arm, one, LabelSettings.model_validate(moved)) for one in public]
        for keep in product(*KEEP.values()):
            settings = moved | dict(zip(KEEP, keep, strict=True))
            found = judged(public, [labels_of(each, LabelSettings.model_validate(settings)) for each in plans])
            if (score := found["f1"] + found["near"]) > best["score"]:
                best = {"score": score, "settings": settings, "public": found}
    return best


def plan(arm: str, seen: Seen, settings: LabelSettings) -> NDArray[np.float64]:
    """What goes where; by the classifier's own answers, whole images."""
    if arm == ARGMAX:
        return np.eye(seen.log_P_NK.shape[1])[seen.log_P_NK.argmax(axis=1)]
    return transport(seen.log_P_NK, seen.joined_NN if settings.agreement else None, settings)


def label(arm: str, seen: Seen, settings: dict[str, Any]) -> PseudoLabels:
    """One client's labels."""
    asked = LabelSettings.model_validate(settings)
    return labels_of(plan(arm, seen, asked), asked)


def judged(clients: list[Seen], found: list[PseudoLabels]) -> dict[str, float]:
    """How right labels are, which classes are found (F1 over all clients), and which large classes are well counted."""
    right = images = left_out = both = claimed = there = near = large = 0
    worst = 0.0
    for seen, own in zip(clients, found, strict=True):
        true_K = np.bincount(seen.truth, minlength=len(own.counts))
        right += int((own.labels == seen.truth).sum())
        images, left_out = images + len(seen.truth), left_out + int((~own.kept).sum())
        both += int(((own.counts > 0) & (true_K > 0)).sum())
        claimed, there = claimed + int((own.counts > 0).sum()), there + int((true_K > 0).sum())
        errors = np.abs(own.counts - true_K)[true_K >= MANY] / true_K[true_K >= MANY]
        near, large = near + int((errors <= NEAR).sum()), large + len(errors)
        worst = max(worst, float(errors.max(initial=0)))
    return {
        "right": right / images,
        "left_out": left_out / images,
        "f1": 2 * both / (claimed + there),
        "missed": there - both,
        "invented": claimed - both,
        "near": near / large,
        "worst": worst,
    }


def global_accuracy(
    bench: Bench, private: list[Seen], found: list[PseudoLabels] | None, folder: Path, seed: int
) -> float:
    """Captions of all clients under their labels, images drawn from those, a model trained on these."""
    model = bench.base.model_folder()
    captions = write_captions(bench.sets["private"], model, "attributes", bench.work)
    merged = merge_payloads(payloads(bench.sets["private"], private, found, model, captions))
    drawn = SynthesisSettings(images_per_class=bench.images_per_class, seed=seed, sampling=bench.base.sampling)
    engine = build_engine(bench.base, model, bench.engines)
    return accuracy(engine, merged, drawn, bench.sets["test"], folder, batch_size=64)


def payloads(
    images: LabelledImages, private: list[Seen], found: list[PseudoLabels] | None, model: Path, captions: str
) -> Iterator[Payload]:
    """What the clients send: a caption of each image that has a label, true or found."""
    names = images.class_names
    for number, seen in enumerate(private):
        own = images.select(seen.rows)
        if found is not None:
            own = labelled(own, found[number], names, names).images
        yield embed(own, f"client{number}", model, "instance", captions=captions)


if __name__ == "__main__":
    typer.run(main)
