"""Kill -9 at random moments, many times over: whether anything is lost, made twice, or other than without a kill.

Each run is a process of its own, killed and started again until it ends by itself. It is forked from this one, which
has imported everything, so that a kill falls into the work rather than into Python's imports.
"""

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import deepspeed  # noqa: F401 (imported before the fork)
import pytest

from benchmarks.results_file import save_result
from fglfast.client.embed import embed
from fglfast.engine.build import build_engine
from fglfast.engine.recipe import Recipe, find_recipe
from fglfast.images.dataset import read_dataset
from fglfast.payload.merge import Merged, merge_payloads
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import synthesize
from fglfast.training import worker, world  # noqa: F401 (likewise)
from fglfast.training.launch import train
from fglfast.training.settings import TrainSettings

KILLS = int(os.environ.get("FUZZ_KILLS", 200))  # of synthesize; a quarter of it of train
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


def test_nothing_is_lost_by_a_few_kills(random_mini, recipe, merged, tiny_arch, shared, tmp_path):
    eager, draw, engines = recipe.model_copy(update={"backend": "torch"}), random.Random(0), shared / "engines"
    assert ended(partial(build_engine, eager, random_mini, engines)) == 0
    settings = SynthesisSettings(images_per_class=4, shard_size=2, sampling=recipe.sampling)
    drawing = Stage(partial(draw_images, eager, random_mini, engines, merged, settings), shards)
    learning = TrainSettings(arch=tiny_arch, epochs=4, image_size=16, batch_size=4, checkpoint_seconds=0.1)
    for name, stage, kills in (
        ("drawn", drawing, 2),
        ("trained", Stage(partial(learn, tmp_path / "drawn" / "whole", learning), training_state), 2),
    ):
        found = torment(stage, kills, draw, tmp_path / name)
        assert found["problems"] == [] and found["kills"] == kills and found["things_compared_a_run"] > 4


@pytest.mark.fuzz
@pytest.mark.timeout(0)
def test_nothing_is_lost_by_many_kills(tmp_path):
    draw, recipe, per_class, epochs = random.Random(0), find_recipe("mini-few"), 12, 12
    recipe = recipe.model_copy(update={"unet_batch": BATCH, "vae_batch": BATCH})
    model = recipe.model_folder()
    merged = merge_payloads([embed(read_dataset("fashion:private"), "ann", model)])
    settings = SynthesisSettings(images_per_class=per_class, shard_size=BATCH, sampling=recipe.sampling)
    engines = tmp_path / "engines"
    assert ended(partial(build_engine, recipe, model, engines)) == 0  # here, its threads would not outlive a fork
    drawing = Stage(partial(draw_images, recipe, model, engines, merged, settings), shards)
    found = {"synthesize": torment(drawing, KILLS, draw, tmp_path / "drawn")}
    learning = TrainSettings(arch="resnet10-tiny", epochs=epochs, image_size=28, batch_size=32, checkpoint_seconds=0.5)
    training = Stage(partial(learn, tmp_path / "drawn" / "whole", learning), training_state)
    found["train"] = torment(training, KILLS // 4, draw, tmp_path / "trained")
    circumstances = {"command": f"make fuzz FUZZ_KILLS={KILLS}", "images": 10 * per_class, "epochs": epochs}
    save_result("kills", circumstances | found)
    assert [problem for stage in found.values() for problem in stage["problems"]] == []


def torment(stage: Stage, kills: int, draw: random.Random, folder: Path) -> dict[str, Any]:
    """Run a stage to its end again and again, killed on the way, until so many kills are done."""
    folder.mkdir()
    began = time.monotonic()
    assert ended(partial(stage.work, folder / "whole")) == 0, "it does not even work without a kill"
    seconds, whole = time.monotonic() - began, stage.made(folder / "whole")
    done, runs, amid, problems = 0, 0, 0, list[str]()
    while done < kills:
        out, kept = folder / f"run{runs}", dict[str, str]()
        while True:
            status = ended(partial(stage.work, out), draw.uniform(0, seconds) if done < kills else None)
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


def ended(work: Callable[[], object], after: float | None = None) -> int | None:
    """Work in a process of its own, killed after so many seconds unless it ended before; its status, -9 if killed."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(after)
    process.kill()  # one that is over stays as it ended
    process.join()
    return process.exitcode


def draw_images(
    recipe: Recipe, model: Path, engines: Path, merged: Merged, settings: SynthesisSettings, out: Path
) -> None:
    """Draw a small data set."""
    synthesize(build_engine(recipe, model, engines), merged, settings, out)


def learn(synthetic: Path, settings: TrainSettings, out: Path) -> None:
    """Train a small model on it, in this process as under torchrun."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ |= ONE_PROCESS | {"MASTER_PORT": str(probe.getsockname()[1])}
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
