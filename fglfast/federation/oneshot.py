"""The server's one shot: payloads from clients, synthetic images, a model trained on them. Knows no rounds."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Message
from safetensors.torch import load_file, save

from fglfast.console import note
from fglfast.engine.build import build_engine
from fglfast.engine.recipe import find_recipe
from fglfast.errors import BadInputError, FglError
from fglfast.federation import wire
from fglfast.federation.experiment import Experiment
from fglfast.federation.rounds import Weights, sound
from fglfast.files import write_atomic
from fglfast.merge import merge_payloads
from fglfast.payload import load_payload
from fglfast.synthesis.synthesize import SynthesisSettings, synthesize
from fglfast.text import resolve_model
from fglfast.training.launch import train

DONE = "done"
MODEL = "model.safetensors"


@dataclass(frozen=True)
class Shot:
    """What the one shot left.

    Attributes:
        weights: of the global model.
        synthetic: folder of the synthetic images.
        seconds: of the server: engine, synthesis and training; 0 of what was there already.
    """

    weights: Weights
    synthetic: Path
    seconds: float


def one_shot(grid: wire.CountedGrid, experiment: Experiment, seed: int, folder: Path, engines: Path) -> Shot:
    """Collect, synthesize, train; whatever is in `folder` already is not done again.

    Raises:
        FglError: too few clients sent a sound payload, or a stage failed.
    """
    payloads = collect_payloads(grid, experiment, folder / "clients")
    begun = time.monotonic()
    recipe = find_recipe(experiment.recipe)
    engine = build_engine(recipe, resolve_model(recipe.model, recipe.revision, recipe.mirror), engines)
    asked = SynthesisSettings(images_per_class=experiment.images_per_class, seed=seed, sampling=recipe.sampling)
    synthesize(engine, merge_payloads(load_payload(path) for path in payloads), asked, folder / "synthetic")
    settings = experiment.train.model_copy(update={"seed": seed})
    trained = train(folder / "synthetic", folder / "model", settings, "auto")
    return Shot(load_file(trained.model / MODEL), folder / "synthetic", time.monotonic() - begun)


def fine_tune(weights: Weights, synthetic: Path, experiment: Experiment, seed: int, folder: Path) -> Weights:
    """Train an average further on the synthetic images; `folder` is the work's own and is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    initial = folder.with_name(f"{folder.name}.safetensors")
    write_atomic(initial, save({name: tensor.contiguous() for name, tensor in weights.items()}))
    rounds = experiment.rounds
    changes = {"seed": seed, "initial": initial, "epochs": rounds.fine_tune_epochs}
    changes |= {"learning_rate": rounds.fine_tune_rate, "warmup_share": 0.0}
    trained = train(synthetic, folder, experiment.train.model_copy(update=changes), "auto")
    tuned = load_file(trained.model / MODEL)
    shutil.rmtree(folder)
    initial.unlink()
    return tuned


def collect_payloads(grid: wire.CountedGrid, experiment: Experiment, folder: Path) -> list[Path]:
    """Ask every client for its payload and keep those that pass inspection, one file a client.

    Raises:
        FglError: too few clients sent a sound payload.
    """
    if (folder / DONE).exists():
        return sorted(folder.glob("*.safetensors"))
    folder.mkdir(parents=True, exist_ok=True)
    asked = {"model": find_recipe(experiment.recipe).model, "prompt-level": experiment.prompt_level}
    replies = sound(grid.ask_all(wire.PAYLOAD, wire.config(**asked)), grid.least)
    kept = [path for path in (_kept(reply, folder) for reply in replies) if path]
    if len(kept) < grid.least:
        raise FglError(
            f"{len(kept)} clients sent a sound payload, {grid.least} are needed", "see what was refused above"
        )
    write_atomic(folder / DONE, "")
    return sorted(kept)


def _kept(reply: Message, folder: Path) -> Path | None:
    """A client's payload as a file named by its node, or None if it is refused: a stranger wrote it."""
    node = reply.metadata.src_node_id
    path = folder / f"{node}.safetensors"
    content = reply.content.config_records.get("payload", {}).get("file")
    if not isinstance(content, bytes):
        note(f"client {node}: sent no payload")
        return None
    write_atomic(path, content)
    try:
        load_payload(path)
    except BadInputError as error:
        note(f"client {node}: payload refused: {error.message}")
        path.unlink()
        return None
    return path
