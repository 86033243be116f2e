"""What differential privacy costs: the global model's accuracy against the epsilon of each client's upload.

Five clients with skewed classes send one noisy upload each; everything after that is as without noise. Beside class
level and instance level as `fglfast embed --epsilon` makes them stands the textbook's instance level: every image is a
row of its own, clipped around its class name's embedding, with noise on each row.

Instance level is measured with captions in free words (`benchmarks.free_captions`), as people and captioning models
write them. The measured words would not do: they are the public prompts themselves, so that nothing is added to those
and noise on what is added costs nothing. `--captions attributes` measures that case, a .jsonl or .csv file any other.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from matplotlib.figure import Figure
from scipy.spatial.distance import cdist

from benchmarks.free_captions import free_captions
from benchmarks.global_model import accuracy
from benchmarks.results_file import RESULTS, once, save_result
from fglfast.base.files import write_atomic
from fglfast.client.captions import FILES, caption_all, find_captioner
from fglfast.client.embed import embed
from fglfast.client.privacy import Budget, gaussian, noise_scale
from fglfast.client.private_prompts import INSTANCE_SENSITIVITY, clipped, public_prompts
from fglfast.engine.build import Engine, build_engine
from fglfast.engine.recipe import find_recipe
from fglfast.generator.text import load_prompts, native_image_size
from fglfast.generator.text_encoder import TextEncoder
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import LabelledImages
from fglfast.images.partition import partition_dirichlet
from fglfast.payload import Payload, PayloadHeader
from fglfast.payload.merge import merge_payloads
from fglfast.sampler.schedule import Sampling
from fglfast.synthesis.settings import SynthesisSettings

TEXTBOOK = "instance level, a noisy row an image"
CURVES: dict[str, tuple[float | None, ...]] = {
    "class level": (0.01, 0.1, 1.0, 10.0, None),
    "instance level": (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, None),
    TEXTBOOK: (1.0, 10.0, 100.0),
}
CLIENTS, BETA = 5, 0.01
FREE = "free"
SAMPLE = 1000  # images whose captions are held against the public prompts
CLIP = 8.67  # of the textbook's rows: the spread of mini's public prompts, as `embed` takes it


@dataclass(frozen=True)
class Bench:
    """What all points of all curves share."""

    private: LabelledImages
    test: LabelledImages
    captions: str
    model: Path
    engine: Engine
    sampling: Sampling
    images_per_class: int


def main(
    data: Annotated[str, typer.Option(help="Holds the splits private and test.")] = "fashion",
    work: Annotated[Path, typer.Option(help="What is finished; a second call redoes none.")] = Path("runs/epsilon"),
    engines: Path = Path("engines/build"),
    recipe: str = "mini-few",
    captions: Annotated[str, typer.Option(help="free, attributes, or a .jsonl or .csv file.")] = FREE,
    images_per_class: int = 60,
    seeds: int = 3,
) -> None:
    """Draw and train with every budget and seed, save the table and the curve."""
    asked, private = find_recipe(recipe), read_dataset(f"{data}:private")
    model = asked.model_folder()
    written, engine = write_captions(private, model, captions, work), build_engine(asked, model, engines)
    test = read_dataset(f"{data}:test")
    bench = Bench(private, test, written, model, engine, asked.sampling, images_per_class)
    points = [(curve, epsilon) for curve, epsilons in CURVES.items() for epsilon in epsilons]
    runs: dict[tuple[str, float | None], list[dict[str, Any]]] = {point: [] for point in points}
    for seed in range(seeds):
        for curve, epsilon in points:
            folder = work / f"{curve} {epsilon} {seed} {Path(written).stem}"
            found = once(
                folder / f"found-{images_per_class}.json", partial(measure, bench, curve, epsilon, seed, folder)
            )
            typer.echo(json.dumps({"curve": curve, "epsilon": epsilon, **found}))
            runs[curve, epsilon].append(found)
    rows = [
        {"curve": curve, "epsilon": epsilon, "accuracy": median(run["accuracy"] for run in found), "runs": found}
        for (curve, epsilon), found in runs.items()
    ]
    draw(rows).savefig(RESULTS / "epsilon.png", dpi=110, metadata={"Software": None})
    facts = {"private_images": len(private), "clients": CLIENTS, "beta": BETA, "delta": Budget(epsilon=1.0).delta}
    facts |= {"captions": {"kind": captions, **carried(bench)}, "images_per_class": images_per_class}
    save_result("epsilon", {**facts, "rows": rows})


def write_captions(private: LabelledImages, model: Path, kind: str, work: Path) -> str:
    """Make all captions once, or take those of a file: it is read for every budget."""
    if Path(kind).suffix in FILES:
        return kind
    path, size = work / f"captions-{kind}.jsonl", native_image_size(model)
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        words = caption_all(private, partial(free_captions, size) if kind == FREE else find_captioner(kind, size))
        lines = [
            json.dumps({"file_name": name, "caption": text}) for name, text in zip(private.names, words, strict=True)
        ]
        write_atomic(path, "\n".join(lines) + "\n")
    return str(path)


def carried(bench: Bench) -> dict[str, float]:
    """What captions add to the public prompts: how many there are; of some, how far they lie from the nearest."""
    encoder, template = TextEncoder.load(bench.model), load_prompts(bench.model).instance_level
    names, words = bench.private.class_names, captions_of(bench, bench.private)
    some = np.random.default_rng(0).permutation(len(words))[:SAMPLE]
    distances = np.zeros(len(some))
    for label, name in enumerate(names):
        own = np.flatnonzero(bench.private.labels[some] == label)
        prompts = [template.format(label=name, caption=words[row]) for row in some[own]]
        rows_BX, public_AX = (
            encoder.encode(encoder.tokenize(each)).reshape(len(each), -1)
            for each in (prompts or [name], public_prompts(name, template))
        )
        distances[own] = cdist(rows_BX, public_AX).min(axis=1)[: len(own)]
    return {
        "distinct": len(set(words)),
        "mean_distance": float(distances.mean()),
        "public": float((distances < 1e-3).mean()),
        "clipped": float((distances > CLIP).mean()),
    }


def captions_of(bench: Bench, images: LabelledImages) -> list[str]:
    return next(iter(find_captioner(bench.captions, 0)(images)))


def measure(bench: Bench, curve: str, epsilon: float | None, seed: int, folder: Path) -> dict[str, Any]:
    """Embed, draw, train and judge."""
    shutil.rmtree(folder, ignore_errors=True)  # a call that was killed drew other noise, which nothing repeats
    parts = partition_dirichlet(bench.private.labels, CLIENTS, BETA, seed)
    merged = merge_payloads(
        upload(bench, curve, epsilon, bench.private.select(rows), f"client{number}")
        for number, rows in enumerate(parts)
    )
    drawn = SynthesisSettings(images_per_class=bench.images_per_class, seed=seed, sampling=bench.sampling)
    return {
        "seed": seed,
        "accuracy": accuracy(bench.engine, merged, drawn, bench.test, folder, batch_size=64),
        "rows": len(merged.labels),
        "classes": len(np.unique(merged.labels)),
    }


def upload(bench: Bench, curve: str, epsilon: float | None, images: LabelledImages, client: str) -> Payload:
    """What one client sends."""
    budget = Budget(epsilon=epsilon) if epsilon else None
    if curve == TEXTBOOK:
        assert budget is not None
        return noisy_rows(bench, images, client, budget)
    if curve == "class level":
        return embed(images, client, bench.model, "class", budget=budget)
    return embed(images, client, bench.model, "instance", captions=bench.captions, budget=budget)


def noisy_rows(bench: Bench, images: LabelledImages, client: str, budget: Budget) -> Payload:
    """Every image a row: its class name's embedding, and what its caption adds to that, clipped, with noise.

    Replacing an image changes one row by twice the clip at most. How many images of each class there are is not hidden.
    """
    encoder, templates = TextEncoder.load(bench.model), load_prompts(bench.model)
    names, labels = images.class_names, images.labels
    words = captions_of(bench, images)
    prompts = [
        templates.instance_level.format(label=names[k], caption=text) for k, text in zip(labels, words, strict=True)
    ]
    own_NLD = encoder.encode(encoder.tokenize(prompts)).astype(np.float64)
    public_KLD = encoder.encode(encoder.tokenize([templates.class_level.format(label=name) for name in names]))
    added_NX = clipped((own_NLD - public_KLD[labels]).reshape(len(labels), -1), CLIP)
    added_NX += noise_scale(budget, INSTANCE_SENSITIVITY) * CLIP * gaussian(*added_NX.shape)
    rows_NLD = (public_KLD[labels] + added_NX.reshape(own_NLD.shape)).astype(np.float16)
    header = PayloadHeader(client=client, class_names=names, prompt_level="instance", text_encoder=encoder.fingerprint)
    return Payload(header, rows_NLD, None, labels, np.ones_like(labels))


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """Accuracy against epsilon: median and range of the seeds; dotted, what there is without noise."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axis = figure.subplots()
    for index, curve in enumerate(CURVES):
        own = [
            (row["epsilon"], [100 * run["accuracy"] for run in row["runs"]]) for row in rows if row["curve"] == curve
        ]
        noisy = [(epsilon, found) for epsilon, found in own if epsilon is not None]
        at, spread = [epsilon for epsilon, _ in noisy], [found for _, found in noisy]
        axis.plot(at, [median(found) for found in spread], color=f"C{index}", marker="o", markersize=4, label=curve)
        axis.fill_between(
            at, [min(f) for f in spread], [max(f) for f in spread], color=f"C{index}", alpha=0.15, linewidth=0
        )
        for found in (found for epsilon, found in own if epsilon is None):
            axis.axhline(median(found), color=f"C{index}", linestyle=":", linewidth=1)
    axis.set(xscale="log", ylim=(0, 100))
    axis.set_xlabel("epsilon of each client's upload (dotted: without noise)")
    axis.set_ylabel("accuracy, real test images, %")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    typer.run(main)
