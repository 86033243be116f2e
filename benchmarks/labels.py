"""Whether a generator can check its own labels: who is told, what it costs, and what leaving images out gains.

A referee, a classifier trained on all real public images, says which synthetic images are wrongly labelled; in a
second row some labels are swapped on purpose, and the check has to find those. Then a small classifier is trained on
the images that each check keeps: of equally many images, and of as many as equal seconds of processor time pay for,
to draw, check and train. Seconds are the processor's and not the clock's, as a machine may be shared.

What is finished is kept, image scores and trained models each in a file; a second call redoes none.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import mannwhitneyu

from benchmarks.global_model import SMALL, public_accuracy
from benchmarks.label_arms import KEPT, Pool, accuracies, as_images, file_of, processor
from benchmarks.results_file import once, save_result
from fglfast.client.embed import class_list, embed
from fglfast.engine.build import LazyEngine, build_engine
from fglfast.engine.recipe import find_recipe
from fglfast.generator.encoder import ImageEncoder
from fglfast.generator.learning.label_flow import (
    FIT,
    FOLDER,
    LabelledLatents,
    save_label_flow,
    train_label_flow,
)
from fglfast.generator.parts import bundled
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import LabelledImages
from fglfast.payload.merge import merge_payloads
from fglfast.shards.tar import decode_image, read_samples
from fglfast.synthesis.judge import ClassifierJudge, Judge
from fglfast.synthesis.self_judge import GeneratorJudge, LabelFlowJudge
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import synthesize
from fglfast.training.evaluate import open_classifier
from fglfast.training.predict import predict

GENERATORS = ("mini", "mini-few")
COUNTS = (1, 2, 4)  # noise levels, on the first images of each class
LEVELS, NEAREST = 2, 4  # what all images are scored with; classes, where not all are asked about
EARLY = 5  # epochs of SMALL's, after which a model's loss tells who learned late
REFEREE = SMALL.model_copy(update={"epochs": 10})
SWAPPED = 0.1  # of the images
ENCODED = 10_000  # public images that the label flow learns from
BATCH = 128  # images that are scored at once
FLOW, LOSS_EARLY, LOSS = "label flow", f"early loss, {EARLY} epochs", f"loss of mini, {LEVELS} levels"
OF_ALL = (FLOW, LOSS_EARLY, LOSS)  # checks that see all images

Scores = NDArray[np.float64]


def main(
    data: Annotated[str, typer.Option(help="Holds the splits public and test.")] = "fashion",
    work: Annotated[Path, typer.Option(help="What is finished; a second call redoes none.")] = Path("runs/labels"),
    engines: Path = Path("engines/build"),
    backend: str = "auto",
    images_per_class: int = 100,
    looked_at: Annotated[int, typer.Option(help="Images a class that every number of levels is tried on.")] = 20,
    seeds: Annotated[str, typer.Option(help="Numbers, with commas.")] = "0,1,2",
    train: Annotated[bool, typer.Option(help="Also train on what each check keeps.")] = True,
) -> None:
    """Draw, score, compare with the referee, train on what is kept; save the table."""
    public, test = read_dataset(f"{data}:public"), read_dataset(f"{data}:test")
    names = public.class_names
    lent = {name: lazy(name, backend, engines) for name in GENERATORS}
    referee = partial(public_accuracy, public, test, work / "referee", REFEREE)
    right, flow = once(work / "referee.json", referee), label_flow(public, work)
    pools: list[tuple[Pool, dict[str, Any]]] = []
    for seed in map(int, seeds.split(",")):
        for name in GENERATORS:
            pool = drawn(lent[name], names, seed, images_per_class, work / f"{name}-{seed}-{images_per_class}")
            wrong_N = wrongly_labelled(pool, names, work / "referee" / "model")
            early = partial(early_model, pool, names, seed, test)
            judges = judges_of(lent, name, names, flow, early)
            told = [told_apart(pool, wrong_N, judge, title, seed, looked_at) for title, judge in judges]
            run = {"generator": name, "seed": seed, "wrong": float(wrong_N.mean()), "draw": pool.seconds}
            pools.append((pool, run | {"judges": told}))
            typer.echo(json.dumps(pools[-1][1]))
    result = {"images_per_class": images_per_class, "looked_at": looked_at, "kept": KEPT, "swapped": SWAPPED}
    result |= {"referee": right, "levels": LEVELS, "runs": [run for _, run in pools]}
    save_result("labels", result)
    if train:
        save_result("labels", result | {"trained": [accuracies(pool, run, names, test) for pool, run in pools]})


def lazy(name: str, backend: str, engines: Path) -> LazyEngine:
    """A shipped recipe's generator."""
    recipe = find_recipe(name).changed(backend=backend)
    return LazyEngine(recipe, engines, lambda: build_engine(recipe, recipe.model_folder(), engines))


def label_flow(public: LabelledImages, work: Path) -> Path:
    """A copy of `mini` with a label flow, which learned from public images as `pretrain --label-flow` teaches it."""
    model = work / "mini-with-labels"
    if (model / FOLDER).is_dir():
        return model
    state = work / "label-flow"
    state.mkdir(parents=True, exist_ok=True)
    encoder, rows = ImageEncoder(bundled("mini"), 32, "cpu"), range(min(ENCODED, len(public)))
    batches = [list(rows[start : start + 100]) for start in range(0, len(rows), 100)]
    latents_NCHW = torch.cat([encoder(np.stack([public.pixels(row, 32) for row in batch])) for batch in batches])
    moments_N2CHW = torch.stack([latents_NCHW, torch.zeros_like(latents_NCHW)], dim=1)  # scaled already
    given = LabelledLatents(moments_N2CHW, torch.from_numpy(public.labels[: len(rows)]), 1.0, public.class_names)
    flow = train_label_flow(given, FIT, state)
    shutil.copytree(bundled("mini"), model, dirs_exist_ok=True)
    save_label_flow(flow, public.class_names, latents_NCHW.shape[1:], model)
    return model


def drawn(lent: LazyEngine, names: Sequence[str], seed: int, images_per_class: int, folder: Path) -> Pool:
    """The images of one seed, from class-level prompts."""
    images, payload = folder / "synthetic", embed(class_list(tuple(names)), "server", lent.recipe.model_folder())
    asked = SynthesisSettings(images_per_class=images_per_class, seed=seed, sampling=lent.recipe.sampling)

    def draw() -> float:
        shutil.rmtree(images, ignore_errors=True)  # a killed run's, whose seconds are not known
        lent.engine  # noqa: B018 (opening it is no drawing)
        with processor() as spent:
            made = synthesize(lent.engine, merge_payloads([payload]), asked, images)
        return spent[0] / made.images

    seconds = once(folder / "draw.json", draw)
    samples = [sample for tar in sorted(images.glob("*.tar")) for _, sample in read_samples(tar)]
    pixels = np.stack([np.asarray(decode_image(sample.image)) for sample in samples])
    return Pool(pixels, np.array([sample.label for sample in samples]), seconds, folder)


def wrongly_labelled(pool: Pool, names: Sequence[str], referee: Path) -> NDArray[np.bool_]:
    """Which images [N] the referee takes for another class than they were drawn for."""
    model, known, side = open_classifier(referee)
    small = [np.asarray(Image.fromarray(each).resize((side, side), Image.Resampling.BICUBIC)) for each in pool.pixels]
    logits_NK = predict(model, torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2))
    said_N = logits_NK.argmax(1).numpy()
    wrong_N: NDArray[np.bool_] = said_N != np.array([known.index(name) for name in names])[pool.labels]
    return wrong_N


def judges_of(
    lent: dict[str, LazyEngine], name: str, names: Sequence[str], flow: Path, early: Callable[[], Path]
) -> Iterator[tuple[str, Callable[[], Judge]]]:
    """The checks of one generator's images, each with a title and how it is opened."""
    yield FLOW, lambda: LabelFlowJudge(flow, names)
    yield LOSS_EARLY, lambda: ClassifierJudge(early() / "model", names)
    teacher = lent[GENERATORS[0]]
    yield LOSS, lambda: GeneratorJudge(teacher, names, LEVELS)
    yield f"{LOSS}, {NEAREST} classes", lambda: GeneratorJudge(teacher, names, LEVELS, NEAREST)
    for count in COUNTS:
        if count != LEVELS:
            yield f"loss of mini, {count} levels", partial(GeneratorJudge, teacher, names, count)
    if name != GENERATORS[0]:
        yield f"loss of {name}, {LEVELS} levels", lambda: GeneratorJudge(lent[name], names, LEVELS)


def told_apart(
    pool: Pool, wrong_N: NDArray[np.bool_], opened: Callable[[], Judge], title: str, seed: int, looked_at: int
) -> dict[str, Any]:
    """Area under the curve of a check's scores, for images that are wrong and for labels swapped among those right."""
    whole = title in OF_ALL
    rows = np.arange(len(pool.labels) if whole else looked_at * len(np.unique(pool.labels)))
    random, classes = np.random.default_rng(seed), int(pool.labels.max()) + 1
    swapped = random.permutation(np.flatnonzero(~wrong_N[rows]))[: round(SWAPPED * len(rows))]
    others = (pool.labels[swapped] + random.integers(1, classes, len(swapped))) % classes

    def score() -> dict[str, Any]:
        judge = opened()
        judge(pool.pixels[:2], pool.labels[:2].tolist())  # what is opened when it is first used
        with processor() as spent:
            scores = scored(judge, pool.pixels[rows], pool.labels[rows])
        if title == LOSS_EARLY:
            spent[0] += json.loads((pool.folder / "early.json").read_text())
        of_swapped = scored(judge, pool.pixels[swapped], others)
        return {"scores": scores.tolist(), "of_swapped": of_swapped.tolist(), "seconds": spent[0] / len(rows)}

    found = once(pool.folder / file_of(title, len(rows)), score)
    scores_N, wrong = np.array(found["scores"]), wrong_N[rows]
    honest = np.setdiff1d(np.flatnonzero(~wrong), swapped)
    areas = {
        "wrong": area(scores_N[wrong], scores_N[~wrong]),
        "swapped": area(np.array(found["of_swapped"]), scores_N[honest]),
    }
    return {"title": title, "images": len(rows), "seconds": found["seconds"], "area": areas}


def scored(judge: Judge, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> Scores:
    """Scores of images [N], as `synthesize` asks for them."""
    parts = [slice(start, start + BATCH) for start in range(0, len(labels), BATCH)]
    return np.concatenate([judge(pixels[part], labels[part].tolist()) for part in parts])


def area(low: Scores, high: Scores) -> float:
    """The chance that one of the first scores below one of the second; ties count half."""
    return float(mannwhitneyu(high, low).statistic / (len(low) * len(high)))


def early_model(pool: Pool, names: Sequence[str], seed: int, test: LabelledImages) -> Path:
    """A model trained on all images for a few epochs; its seconds are kept beside it."""
    folder, settings = pool.folder / "early", SMALL.model_copy(update={"epochs": EARLY, "seed": seed})

    def train() -> float:
        shutil.rmtree(folder, ignore_errors=True)
        with processor() as spent:
            public_accuracy(as_images(pool, names), test, folder, settings)
        return spent[0]

    once(folder.with_suffix(".json"), train)
    return folder


if __name__ == "__main__":
    typer.run(main)
