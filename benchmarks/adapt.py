"""What adapting the global model to each client gains, beside other ways to use the same few labelled images.

One global model a seed, trained on images that `mini-few` draws from the list of classes. Each client shows a few
labelled images of each class (the shots) and is judged on test images like its own. Federations: the dark, the medium
and the light images at a client each; even shares; even shares whose images are inverted, at one client or at all.
The rates of fine-tuning are chosen on the public images, as the constants of `fglfast.training.opta` were.
"""

import json
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.adapt_columns import CLIENTS, KINDS, SHADES, SHOTS, table
from benchmarks.global_model import SMALL
from benchmarks.results_file import once, save_result
from fglfast.client.embed import class_list, embed
from fglfast.engine.build import build_engine
from fglfast.engine.recipe import find_recipe
from fglfast.federation.clients import domains
from fglfast.federation.experiment import LocalSettings
from fglfast.federation.local import train_locally
from fglfast.images.dataset import read_dataset
from fglfast.payload.merge import merge_payloads
from fglfast.pipeline.one_shot import draw_and_train
from fglfast.pipeline.stages import Stages
from fglfast.shards.description import read_description
from fglfast.shards.index import SyntheticImages, read_index
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.training.adapt import Shots, adapt_model, draw_shots
from fglfast.training.batches import TrainingData, generator, read_pixels
from fglfast.training.evaluate import open_classifier
from fglfast.training.model import head_of
from fglfast.training.opta import Delivered, Head, Seen, by_transport
from fglfast.training.predict import predict
from fglfast.training.prototypes import Prototypes, head_inputs, synthetic_prototypes
from fglfast.training.settings import AdaptSettings

PARTS = ("public", "private", "test")
STEPS, BATCH = 40, 32  # of fine-tuning
RATES = (0.001, 0.003, 0.01, 0.03, 0.1)


@dataclass(frozen=True)
class Split:
    """A part of a split, decoded: uint8 [N,3,S,S], labels [N], and the shade of each image."""

    pixels: Tensor
    labels: Tensor
    shades: "np.ndarray[tuple[int], Any]"

    def of(self, kind: str, client: int) -> TrainingData:
        """The images of a client: those of a shade, or an even share, as they are or inverted."""
        rows = np.arange(len(self.labels))
        rows = rows[self.shades == kind] if kind in SHADES else rows[client::CLIENTS]
        pixels = self.pixels[rows]
        return trained_on(255 - pixels if kind == "inverted" else pixels, self.labels[rows])


@dataclass(frozen=True)
class Server:
    """A seed's global model, and what it came with."""

    model: Any
    prototypes: Prototypes
    synthetic: TrainingData


@dataclass(frozen=True)
class Case:
    """A client of a seed with so many shots a class; `rates` are those of fine-tuning by row."""

    server: Server
    own: TrainingData
    shots: Shots
    seed: int
    rates: dict[str, float]

    def seen(self, model: Any) -> tuple[Tensor, Tensor]:
        """What the last layer sees of the shots [S,F], and their labels [S]."""
        own, rows = self.own, self.shots.labelled
        return head_inputs(model, own.pixels, rows), own.labels[rows]


def trained_on(pixels: Tensor, labels: Tensor) -> TrainingData:
    """Data of which all images [N,3,S,S] are trained on."""
    every = np.arange(len(labels))
    return TrainingData(pixels, labels, pixels.shape[-1], every)


def main(
    data: Annotated[str, typer.Option(help="Holds the splits public, private and test.")],
    work: Annotated[Path, typer.Option(help="What is finished; a second call redoes none.")] = Path("runs/adapt"),
    engines: Path = Path("engines/build"),
    images_per_class: int = 300,
    images: Annotated[int, typer.Option(help="Images of all clients; half as many test them.")] = 6000,
    seeds: int = 3,
) -> None:
    """Adapt, judge, save the table."""
    splits = {name: read_split(data, name, images if name == "private" else images // 2, work) for name in PARTS}
    found: list[dict[str, Any]] = []
    rates: dict[str, float] = {}
    for seed in range(seeds):
        server = global_model(read_dataset(f"{data}:private").class_names, seed, images_per_class, work, engines)
        rates = rates or once(work / "rates.json", partial(best_rates, server, splits["public"]))
        for kind in KINDS:
            for client in range(1 if kind in SHADES else CLIENTS):
                for shots in SHOTS:
                    find = partial(cell, server, splits, kind, client, AdaptSettings(shots=shots, seed=seed), rates)
                    found.append(once(work / f"cell-{kind}-{client}-{shots}-{seed}.json", find))
                    typer.echo(json.dumps(found[-1]))
    facts = {"images_per_class": images_per_class, "images": images, "rates": rates, "steps": STEPS}
    save_result("adapt", {**facts, "rows": table(found), "cells": found})


def read_split(data: str, name: str, count: int, work: Path) -> Split:
    """Some images of a split, with their shades, which take a while and are kept."""
    dataset, file = read_dataset(f"{data}:{name}"), work / f"shades-{name}-{count}.json"
    dataset = dataset.select(np.sort(generator(0, 7).permutation(len(dataset))[:count]))
    shades = once(file, partial(domains, dataset, "shade"))
    assert SMALL.image_size is not None
    pixels = read_pixels(dataset, SMALL.image_size)
    return Split(pixels, torch.from_numpy(dataset.labels), np.array(shades))


def global_model(class_names: tuple[str, ...], seed: int, images: int, work: Path, engines: Path) -> Server:
    """Draw and train, or what an earlier call left."""
    recipe, folder = find_recipe("mini-few"), work / f"model-{seed}"
    if not (folder / "model" / "model.safetensors").exists():
        engine = build_engine(recipe, recipe.model_folder(), engines)
        merged = merge_payloads([embed(class_list(class_names), "server", engine.model)])
        asked = SynthesisSettings(images_per_class=images, sampling=recipe.sampling, seed=seed)
        draw_and_train(engine, merged, asked, SMALL, folder, Stages(folder))
    model, _, size = open_classifier(folder / "model")
    description = read_description(folder / "synthetic")
    index = read_index(folder / "synthetic", description)
    rows = np.sort(generator(seed, 8).permutation(len(index))[:1000])
    pixels = SyntheticImages(index, description.image_size, size)[rows]
    synthetic = trained_on(pixels, torch.from_numpy(index.labels[rows]))
    return Server(model, synthetic_prototypes(model, folder / "synthetic", size), synthetic)


def cell(
    server: Server, splits: dict[str, Split], kind: str, client: int, asked: AdaptSettings, rates: dict[str, float]
) -> dict[str, Any]:
    """A client of a seed with so many shots a class, and what each row comes to there."""
    own, test = splits["private"].of(kind, client), splits["test"].of(kind, client)
    drawn = draw_shots(own.labels.numpy(), own.train, len(server.prototypes.counts_K), asked)
    rows = measure(Case(server, own, drawn, asked.seed, rates), test)
    return {"kind": kind, "client": client, "shots": asked.shots, "seed": asked.seed, "rows": rows}


def measure(case: Case, test: TrainingData) -> dict[str, dict[str, Any]]:
    """Accuracy on a client's test images and seconds of the processor for adapting, by row."""
    found, features_NF = {}, head_inputs(case.server.model, test.pixels)
    for name, way in WAYS.items():
        model, begun = deepcopy(case.server.model), time.process_time()
        said = way(model, case)
        seconds = time.process_time() - begun
        with torch.no_grad():
            logits_NK = predict(model, test.pixels) if way in WHOLE else head_of(model)(features_NF)
        right = (logits_NK.argmax(1) == test.labels).double().mean().item()
        found[name] = {"accuracy": right, "seconds": round(seconds, 4), "layer": said}
    return found


def as_it_is(model: Any, case: Case) -> None:
    """The global model."""


def adapted(model: Any, case: Case) -> str:
    """What `fglfast adapt` does."""
    return adapt_model(model, case.server.prototypes, case.own.pixels, case.own.labels, case.shots).layer


def always_moved(model: Any, case: Case) -> None:
    """Prototypes moved by transport, whether that is better or not."""
    rows = np.concatenate([case.shots.labelled, case.shots.others])
    features_NF, count = head_inputs(model, case.own.pixels, rows).double(), len(case.shots.labelled)
    labels_S, share_K = case.own.labels[case.shots.labelled], torch.from_numpy(case.shots.share)
    delivered = case.server.prototypes
    known = Delivered(delivered.means_KF.double(), delivered.counts_K > 0, delivered.spread.item())
    put(model, by_transport(known, Seen(features_NF[:count], labels_S, features_NF[count:], share_K)))


def shots_alone(model: Any, case: Case) -> None:
    """The nearest mean of a class's shots; classes without any keep the delivered prototype."""
    features_SF, labels_S = case.seen(model)
    means_KF = case.server.prototypes.means_KF.clone()
    for label in labels_S.unique():
        means_KF[label] = features_SF[labels_S == label].mean(0)
    put(model, Head(means_KF, -0.5 * means_KF.square().sum(1)))


def tuned_head(model: Any, case: Case) -> None:
    """The last layer trained further on the shots."""
    features_SF, labels_S = case.seen(model)
    head = head_of(model)
    optimizer = torch.optim.SGD(head.parameters(), case.rates["head"], momentum=0.9)
    for _ in range(STEPS):
        optimizer.zero_grad()
        cross_entropy(head(features_SF), labels_S).backward()
        optimizer.step()


def tuned(model: Any, case: Case) -> None:
    """All weights trained further on the shots."""
    further(model, trained_on(*chosen(case)), case.rates["whole"], case.seed)


def tuned_mixed(model: Any, case: Case) -> None:
    """The same with as many synthetic images beside them."""
    (pixels, labels), synthetic = chosen(case), case.server.synthetic
    rows = generator(case.seed, 9).permutation(len(synthetic.labels))[: len(labels)]
    mixed = torch.cat([pixels, synthetic.pixels[rows]]), torch.cat([labels, synthetic.labels[rows]])
    further(model, trained_on(*mixed), case.rates["mixed"], case.seed)


WAYS: dict[str, Callable[[Any, Case], str | None]] = {
    "global model": as_it_is,
    "fglfast adapt": adapted,
    "OpTA, always": always_moved,
    "mean of the shots": shots_alone,
    "head fine-tuned": tuned_head,
    "fine-tuned": tuned,
    "fine-tuned with synthetic images": tuned_mixed,
}
WHOLE = (tuned, tuned_mixed)  # the others change the last layer alone
TUNED = {"head": tuned_head, "whole": tuned, "mixed": tuned_mixed}


def put(model: Any, head: Head) -> None:
    """Give a classifier a last layer."""
    with torch.no_grad():
        head_of(model).weight.copy_(head.weight_KF)
        head_of(model).bias.copy_(head.bias_K)


def chosen(case: Case) -> tuple[Tensor, Tensor]:
    """Pixels and labels of the shots alone."""
    return case.own.pixels[case.shots.labelled], case.own.labels[case.shots.labelled]


def further(model: Any, images: TrainingData, rate: float, seed: int) -> None:
    """`STEPS` steps of SGD as a client of a federation takes them."""
    epochs = -(-STEPS // max(1, len(images.train) // min(BATCH, len(images.train))))
    train_locally(model, images, LocalSettings(epochs=epochs, batch_size=BATCH, learning_rate=rate), seed)


def best_rates(server: Server, public: Split) -> dict[str, float]:
    """Of each kind of fine-tuning the rate that is best on public images, even and inverted, with five shots."""
    best = {}
    for name, way in TUNED.items():
        reached = {rate: sum(_reached(server, public, way, name, rate, kind) for kind in KINDS[:2]) for rate in RATES}
        best[name] = max(reached, key=lambda rate: reached[rate])
    return best


def _reached(
    server: Server, public: Split, way: Callable[[Any, Case], str | None], name: str, rate: float, kind: str
) -> float:
    own, test, model = public.of(kind, 0), public.of(kind, 1), deepcopy(server.model)
    drawn = draw_shots(own.labels.numpy(), own.train, len(server.prototypes.counts_K), AdaptSettings())
    way(model, Case(server, own, drawn, 0, {name: rate}))
    return (predict(model, test.pixels).argmax(1) == test.labels).double().mean().item()


if __name__ == "__main__":
    typer.run(main)
