"""Kill -9 at random moments, many times over: whether anything is lost, made twice, or other than without a kill.

Each run is a process of its own, killed and started again until it ends by itself. It is forked from one that has
imported everything, so that a kill falls into the work rather than into Python's imports.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.results_file import save_result
from fglfast.client.embed import embed
from fglfast.engine.build import build_engine
from fglfast.engine.recipe import find_recipe
from fglfast.images.dataset import read_dataset
from fglfast.payload.merge import merge_payloads
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import synthesize
from fglfast.training import loop, workers  # noqa: F401 (imported before the fork)
from fglfast.training.launch import train
from fglfast.training.settings import TrainSettings

ENGINES = Path("engines/build")
BATCH = 4  # rows of a pass, and images of a shard: small, so that a kill falls into a shard of many
EPOCH_FACTS = ("epoch", "step", "train_loss", "val_loss", "val_accuracy")
ONE_PROCESS = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}


@dataclass(frozen=True)
class Stage:
    """What is killed.

    Attributes:
        work: does all of it into a folder, or what is left of it.
        made: what a folder holds of use: facts by name, which a kill may not take away or change.
    """

    work: Callable[[Path], object]
    made: Callable[[Path], dict[str, str]]


def main(
    synthesize_kills: Annotated[int, typer.Option(help="While images are drawn.")] = 200,
    train_kills: Annotated[int, typer.Option(help="While the global model is trained.")] = 50,
    images_per_class: int = 12,
    epochs: int = 12,
    seed: int = 0,
) -> None:
    """Kill, start again, compare; exits with 1 if anything was not as without a kill."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        drawing = Stage(partial(draw_images, images_per_class), shards)
        found = {"synthesize": torment(drawing, synthesize_kills, draw, work / "drawn")}
        learning = Stage(partial(learn, work / "drawn" / "whole", epochs), training_state)
        found["train"] = torment(learning, train_kills, draw, work / "trained")
    typer.echo(json.dumps(found))
    save_result("kills", {"seed": seed, "images": 10 * images_per_class, "epochs": epochs, **found})
    if any(stage["problems"] for stage in found.values()):
        raise typer.Exit(1)


def torment(stage: Stage, kills: int, draw: random.Random, folder: Path) -> dict[str, Any]:
    """Run a stage to its end again and again, killed on the way, until so many kills are done."""
    folder.mkdir()
    began = time.monotonic()
    if ended(fork(partial(stage.work, folder / "whole"))) != 0:
        raise RuntimeError("it does not even work without a kill")
    seconds, whole = time.monotonic() - began, stage.made(folder / "whole")
    done, runs, amid, problems = 0, 0, 0, list[str]()
    while done < kills:
        out, kept = folder / f"run{runs}", dict[str, str]()
        while True:
            process = fork(partial(stage.work, out))
            status = ended(process, draw.uniform(0, seconds) if done < kills else None)
            now = stage.made(out)
            problems += [f"run {runs}: {name} is gone" for name in kept.keys() - now.keys()]
            problems += [f"run {runs}: {name} is another" for name in now if now[name] != whole.get(name)]
            if status != -signal.SIGKILL:
                break
            done, amid, kept = done + 1, amid + (0 < len(now) < len(whole)), now
        if status or now != whole:
            problems.append(f"run {runs}: ended with {status}, and {len(now)} of {len(whole)} things")
        runs += 1
        shutil.rmtree(out)
    return {
        "kills": done,
        "kills_amid_the_work": amid,
        "runs": runs,
        "seconds_without_a_kill": round(seconds, 2),
        "things_compared_a_run": len(whole),
        "problems": problems,
    }


def fork(work: Callable[[], object]) -> int:
    """Start work in a process of its own, silent; returns its number."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        work()
        status = 0
    finally:
        os._exit(status)


def ended(process: int, after: float | None = None) -> int:
    """Wait for a process, killed after so many seconds unless it ended before; its status, -9 if it was killed."""
    deadline = time.monotonic() + (after or 0)
    while after is not None and time.monotonic() < deadline:
        number, status = os.waitpid(process, os.WNOHANG)
        if number:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    if after is not None:
        os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def draw_images(images_per_class: int, out: Path) -> None:
    """Draw a small data set of one client's prompts."""
    recipe = find_recipe("mini-few").model_copy(update={"unet_batch": BATCH, "vae_batch": BATCH})
    model = recipe.model_folder()
    engine = build_engine(recipe, model, ENGINES)
    merged = merge_payloads([embed(read_dataset("fashion:private"), "ann", model)])
    settings = SynthesisSettings(images_per_class=images_per_class, shard_size=BATCH, sampling=recipe.sampling)
    synthesize(engine, merged, settings, out)


def learn(synthetic: Path, epochs: int, out: Path) -> None:
    """Train a small model on it, in this process as under torchrun, with a checkpoint every half second."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ |= ONE_PROCESS | {"MASTER_PORT": str(probe.getsockname()[1])}
    settings = TrainSettings(arch="resnet10-tiny", epochs=epochs, image_size=28, batch_size=32, checkpoint_seconds=0.5)
    train(synthetic, out, settings, 1)


def shards(out: Path) -> dict[str, str]:
    """sha256 of every finished shard."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.glob("*.tar")}


def training_state(out: Path) -> dict[str, str]:
    """sha256 of the final weights, and what the log says of every epoch that is over."""
    history, weights = out / "history.jsonl", out / "model.safetensors"
    epochs = [json.loads(line) for line in history.read_text().splitlines()] if history.exists() else []
    told = {f"epoch {epoch['epoch']}": str([epoch[key] for key in EPOCH_FACTS]) for epoch in epochs}
    if len(told) < len(epochs):
        told["twice"] = "an epoch is there twice"
    return told | ({weights.name: hashlib.sha256(weights.read_bytes()).hexdigest()} if weights.exists() else {})


if __name__ == "__main__":
    typer.run(main)
