"""One-shot Federated Generative Learning at the server: prompts in, global model out; run twice, it redoes nothing.

The stages stand here once; a demonstration, an experiment's methods, Flower's server and the benchmarks call them.
"""

import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from fglfast.base.console import note
from fglfast.base.files import folder_bytes
from fglfast.base.untrusted import read_object
from fglfast.engine.build import Engine, build_engine
from fglfast.engine.recipe import find_recipe
from fglfast.payload import Payload
from fglfast.payload.claims import check_claims
from fglfast.payload.merge import Merged, check_prompts, merge_payloads
from fglfast.pipeline.settings import OneShot
from fglfast.pipeline.stages import Stages
from fglfast.shards.description import FACTS, read_description
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import SynthesisResult, synthesize
from fglfast.training.launch import train
from fglfast.training.results import TrainResult
from fglfast.training.settings import TrainSettings

ASKED, ENGINES = OneShot(), Path("engines/build")
MOST_RECORD = 64 << 20  # bytes of a training's record, which names all classes


@dataclass(frozen=True)
class Shot:
    """What one shot left: the engine, what it drew, and the model trained on that."""

    engine: Engine
    made: SynthesisResult
    trained: TrainResult


def one_shot(merged: Merged, asked: OneShot, seed: int, folder: Path, engines: Path, stages: Stages) -> Shot:
    """Build the engine, draw, train; what is in the folder already is not made again.

    Raises:
        FglError: a stage failed.
    """
    recipe = find_recipe(asked.recipe).changed(precision=asked.precision, image_size=asked.drawn_size)
    engine = stages.run(
        "engine",
        f"{recipe.model} on {recipe.backend}",
        lambda: build_engine(recipe, recipe.model_folder(), engines),
        lambda built: folder_bytes(built.folder),
    )
    drawn = SynthesisSettings(
        images_per_class=asked.images_per_class,
        seed=seed,
        sampling=recipe.sampling,
        max_share_per_client=asked.max_share_per_client,
    )
    made, trained = draw_and_train(engine, merged, drawn, asked.train, folder, stages)
    return Shot(engine, made, trained)


def run_one_shot(
    payloads: Iterable[Payload],
    folder: Path | str,
    asked: OneShot = ASKED,
    seed: int = 0,
    engines: Path | str = ENGINES,
    trusted_counts: Collection[str] = (),
) -> Shot:
    """One-shot FGL from the clients' payloads, as a script or a notebook runs it.

    Args:
        payloads: what the clients sent.
        folder: of the run: `synthetic`, `model`, and the seconds of each stage.
        asked: what is made of them.
        seed: of images and model.
        engines: folder of compiled engines.
        trusted_counts: names of clients whose counts are believed, however far they outweigh all others' of a class.

    Raises:
        FglError: a stage failed, or the payloads do not go together.
    """
    folder, engines = Path(folder), Path(engines)
    merged = merge_payloads(payloads)
    check_prompts(merged, asked.allow_same_prompt, "allow_same_prompt=True")
    check_claims(merged, trusted_counts, asked.max_share_per_client, "trusted_counts=[CLIENT]")
    return one_shot(merged, asked, seed, folder, engines, Stages(folder))


def draw_and_train(
    engine: Engine, merged: Merged, drawn: SynthesisSettings, training: TrainSettings, folder: Path, stages: Stages
) -> tuple[SynthesisResult, TrainResult]:
    """The synthetic images of an engine, into `folder/synthetic`, and the model trained on them: as `one_shot`.

    Where the folder holds images of other payloads (clients joined, left or sent another), those that stay are kept. A
    model of the images as they were is set aside, as `model-PLAN`.
    """
    images = folder / "synthetic"

    def draw() -> SynthesisResult:
        before = _plan(images)
        made = synthesize(engine, merged, drawn, images, update=True)
        if before and before != _plan(images):  # else the seconds of the data set before would stay
            (folder / "synthesize.seconds").unlink(missing_ok=True)
        return made

    made = stages.run("synthesize", f"{drawn.images_per_class} images a class", draw, lambda _: folder_bytes(images))
    _set_aside(folder, _plan(images))
    return made, train_model(images, training, drawn.seed, folder, stages)


def _plan(images: Path) -> str:
    """The plan of the data set in a folder; empty where there is none."""
    return read_description(images).plan if (images / FACTS).exists() else ""


def _set_aside(folder: Path, plan: str) -> None:
    record = folder / "model" / "train.json"
    if record.exists():
        run = read_object(record, MOST_RECORD, "delete it").get("run")
        of = str(run["data"]["plan"]) if isinstance(run, dict) else plan
        if of != plan:
            aside = folder / f"model-{of[:12]}"
            note(f"{folder / 'model'} was trained on the images as they were, and is called {aside.name} now")
            (folder / "train.seconds").unlink(missing_ok=True)
            if aside.exists():  # of the same images, which have come and gone before
                shutil.rmtree(aside)
            (folder / "model").rename(aside)


def train_model(images: Path, training: TrainSettings, seed: int, folder: Path, stages: Stages) -> TrainResult:
    """The global model, trained on a folder of shards, into `folder/model`: as `one_shot`."""
    seeded = training.model_copy(update={"seed": seed})
    return stages.run(
        "train",
        f"{training.arch}, {training.epochs} epochs, DeepSpeed",
        lambda: train(images, folder / "model", seeded, "auto"),
        lambda trained: weights_bytes(trained.model),
    )


def weights_bytes(model: Path) -> int:
    """Bytes of a saved model's weights."""
    return sum(path.stat().st_size for path in model.glob("*.safetensors"))
