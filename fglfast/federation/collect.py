"""The server's one shot: payloads from clients, synthetic images, a model trained on them. Knows no rounds."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from flwr.app import Message
from safetensors.torch import load_file

from fglfast.base.config import Settings
from fglfast.base.console import note
from fglfast.base.errors import BadInputError, FglError
from fglfast.base.files import write_atomic
from fglfast.engine.build import build_engine
from fglfast.engine.recipe import find_recipe
from fglfast.federation import wire
from fglfast.federation.experiment import Experiment
from fglfast.federation.wire import Weights
from fglfast.generator.load import read_shapes
from fglfast.generator.text import text_fingerprint
from fglfast.payload import AllowList, PayloadHeader, load_payload
from fglfast.payload.merge import Merged, check_prompts, fingerprint, looks, merge_payloads
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import synthesize
from fglfast.training.launch import train
from fglfast.training.model import write_weights

T = TypeVar("T")
MODEL = "model.safetensors"


class Collected(Settings):
    """What collecting the payloads took, kept beside them: with this file the collection is whole."""

    bytes_down: int
    bytes_up: int
    seconds: float


@dataclass(frozen=True)
class Shot:
    """What the one shot left.

    Attributes:
        weights: of the global model.
        collected: what the clients were asked and took.
        seconds: of the server: engine, synthesis and training, each as long as its last, uninterrupted call took.
    """

    weights: Weights
    collected: Collected
    seconds: float


def one_shot(
    grid: wire.CountedGrid, experiment: Experiment, class_names: tuple[str, ...], seed: int, folder: Path, engines: Path
) -> Shot:
    """Collect, synthesize, train; whatever is in `folder` already is not done again.

    Raises:
        FglError: too few clients sent a sound payload, or a stage failed.
    """
    model = find_recipe(experiment.recipe).model_folder()
    payloads, collected = collect_payloads(grid, experiment, class_names, model, folder / "clients")
    allowed = experiment.allowed()
    merged = merge_payloads(load_payload(path, allowed=allowed) for path in payloads)
    check_prompts(merged, experiment.allow_same_prompt, "allow_same_prompt = true in the experiment")
    weights, seconds = draw_and_train(merged, experiment, seed, folder, engines)
    return Shot(weights, collected, seconds)


def draw_and_train(
    merged: Merged, experiment: Experiment, seed: int, folder: Path, engines: Path
) -> tuple[Weights, float]:
    """A model trained on images drawn from some prompts, and the server's seconds; resumes in `folder`."""
    recipe = find_recipe(experiment.recipe)
    folder.mkdir(parents=True, exist_ok=True)
    asked = SynthesisSettings(
        images_per_class=experiment.images_per_class,
        seed=seed,
        sampling=recipe.sampling,
        max_share_per_client=experiment.max_share_per_client,
    )
    engine, building = timed(folder / "engine.seconds", lambda: build_engine(recipe, recipe.model_folder(), engines))
    _, drawing = timed(folder / "synthesis.seconds", lambda: synthesize(engine, merged, asked, folder / "synthetic"))
    weights, training = train_model(folder / "synthetic", experiment, seed, folder)
    return weights, building + drawing + training


def train_model(images: Path, experiment: Experiment, seed: int, folder: Path) -> tuple[Weights, float]:
    """The server's training on shards of labelled images, and its seconds; resumes in `folder`."""
    settings = experiment.train.model_copy(update={"seed": seed})
    trained, training = timed(folder / "training.seconds", lambda: train(images, folder / "model", settings, "auto"))
    return load_file(trained.model / MODEL), training


def fine_tune(weights: Weights, synthetic: Path, experiment: Experiment, seed: int, folder: Path) -> Weights:
    """Train an average further on the synthetic images; `folder` is the work's own and is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    initial = folder.with_name(f"{folder.name}.safetensors")
    write_weights(weights, initial)
    rounds = experiment.rounds
    changes = {"seed": seed, "initial": initial, "epochs": rounds.fine_tune_epochs}
    changes |= {"learning_rate": rounds.fine_tune_rate, "warmup_share": 0.0}
    trained = train(synthetic, folder, experiment.train.model_copy(update=changes), "auto")
    tuned = load_file(trained.model / MODEL)
    shutil.rmtree(folder)
    initial.unlink()
    return tuned


def collect_payloads(
    grid: wire.CountedGrid, experiment: Experiment, class_names: tuple[str, ...], model: Path, folder: Path
) -> tuple[list[Path], Collected]:
    """Ask every client for its payload and keep those that pass inspection, one file a client.

    Raises:
        FglError: too few clients sent a sound payload.
    """
    done = folder / "collected.json"
    if done.exists():
        return sorted(folder.glob("*.safetensors")), Collected.model_validate_json(done.read_bytes())
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    down, up, begun = grid.down, grid.up, time.monotonic()
    asked = wire.config(
        **{
            "prompt-level": experiment.prompt_level,
            "class-names": list(class_names),
            "learn": experiment.learn.model_dump_json(),
            "validation-share": experiment.validation_share,
        }
    )
    encoder, allowed = text_fingerprint(model), experiment.allowed()
    shapes = read_shapes(model, find_recipe(experiment.recipe).image_size)
    fits = (shapes.text_length, shapes.text_width)
    kept: dict[str, Path] = {}
    seen: set[str | None] = set()
    for reply in grid.ask(wire.PAYLOAD, asked):
        node, path = reply.metadata.src_node_id, folder / f"{reply.metadata.src_node_id:020d}.safetensors"
        try:
            header, content = _keep(reply, path, encoder, fits, allowed)
        except BadInputError as error:
            note(f"client {node}: payload refused: {error.message}")
        else:
            name = looks(header.client)
            if header.class_names == class_names and name not in kept and content not in seen:
                kept[name] = path
                seen |= {content} - {None}
                continue
            note(f"client {node}: payload refused: its classes or name do not fit the others', or it copies one")
        path.unlink(missing_ok=True)
    if len(kept) < grid.least:
        raise FglError(f"{len(kept)} sound payloads, {grid.least} are needed", "see what was refused above")
    took = round(time.monotonic() - begun, 3)
    collected = Collected(bytes_down=grid.down - down, bytes_up=grid.up - up, seconds=took)
    write_atomic(done, collected.model_dump_json() + "\n")
    return sorted(kept.values()), collected


def _keep(
    reply: Message, path: Path, text_encoder: str, shape: tuple[int, int], allowed: AllowList | None
) -> tuple[PayloadHeader, str | None]:
    """Write a client's payload and read it as what a stranger wrote; one that did not fit would stop all others.

    Returns:
        Its header and its `fingerprint`.

    Raises:
        BadInputError: there is none, or it is refused.
    """
    record = reply.content.config_records.get(wire.CONFIG)
    content = record.get(wire.FILE) if record else None
    if not isinstance(content, bytes):
        raise BadInputError("there is none", "ask the client")
    write_atomic(path, content)
    payload = load_payload(path, text_encoder=text_encoder, allowed=allowed)
    if payload.embeddings is None or payload.embeddings.shape[1:] != shape:
        raise BadInputError(
            f"rows of {list(payload.prompts().shape[1:])}, not embeddings of {list(shape)}", "embed again"
        )
    return payload.header, fingerprint(payload)


def timed(file: Path, stage: Callable[[], T]) -> tuple[T, float]:
    """A stage's result, and its seconds when it was first done to the end: a later call finds it done."""
    begun = time.monotonic()
    result = stage()
    if not file.exists():
        write_atomic(file, f"{time.monotonic() - begun:.3f}\n")
    return result, float(file.read_text(encoding="utf-8"))
