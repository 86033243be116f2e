"""What a server spends on one one-shot run from nothing, stage by stage: as the code is, and as it was before.

Both versions run as processes of their own with their own defaults, in turn, each into an empty folder: engines are
exported and compiled, images drawn, the global model trained and judged on real test images. Then the commands that
take little but their start: `embed`, `inspect` and `evaluate` of 100 images.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.results_file import save_result
from fglfast.base.errors import FglError
from fglfast.base.timing import Run, interleaved
from fglfast.images.dataset import read_dataset

STAGES = {"engine": "engine", "synthesize": "synthesis", "train": "training"}
ROUNDS = 3
HERE = Path(__file__).parents[1]


def main(
    test: Annotated[str, typer.Option(help="Real images that judge, PATH[:SPLIT].")] = "fashion:test",
    before: Annotated[str, typer.Option(help="A commit to run beside this one.")] = "",
    images_per_class: int = 300,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    work: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/server-seconds"),
) -> None:
    """Run the demonstration of each version once a seed, and save `benchmarks/results/server-seconds.json`.

    What was before runs with one seed: its seconds are asked for, not its accuracy.
    """
    work.mkdir(parents=True, exist_ok=True)
    versions = {"now": HERE} | ({"before": _checkout(before, work / "before")} if before else {})
    asked = {"now": [], "float32": ["--precision", "float32"], "before": []}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in asked if name != "before" or before}
    for seed in range(seeds):
        for name, runs in found.items():
            if name != "before" or not seed:
                options = ["--test", test, "--images-per-class", str(images_per_class), *asked[name]]
                runs.append(run(versions.get(name, HERE), work / f"{name}-{seed}", options, seed))
                typer.echo(json.dumps({"version": name, **runs[-1]}))
    starts = commands(versions, work)
    rows = [
        {"version": name, **_median(runs), "commands": starts.get(name), "runs": runs} for name, runs in found.items()
    ]
    settings = {"test": Path(test).name, "images_per_class": images_per_class, "before": before}
    save_result("server-seconds", {"settings": settings, "rows": rows})


def run(code: Path, out: Path, asked: list[str], seed: int) -> dict[str, Any]:
    """Seconds by stage and of the whole command, and the accuracy, of one run; one that is finished is read."""
    clock = out / "command.seconds"
    if not clock.exists():
        shutil.rmtree(out, ignore_errors=True)
        begun = time.monotonic()
        _command(code, ["demo", "--out", str(out.resolve()), *asked, "--seed", str(seed)])
        clock.write_text(f"{time.monotonic() - begun:.2f}")
    record = json.loads((out / "run.json").read_bytes())
    seconds = {name: stage["seconds"] for stage in record["stages"] for name in [STAGES.get(stage["name"])] if name}
    seconds["all"] = float(clock.read_text())
    return {"seed": seed, "accuracy": record["evaluation"]["accuracy"], "seconds": seconds}


def commands(versions: dict[str, Path], work: Path) -> dict[str, dict[str, float]]:
    """Seconds of short commands by version: the median of some rounds, all in turn."""
    photos = work / "hundred"
    if not photos.exists():
        _write_photos(photos)
    runs: dict[str, Run] = {}
    for name, code in versions.items():
        model, payload = (work / f"{name}-0" / "model").resolve(), (work / f"{name}.safetensors").resolve()
        for asked in (
            ["embed", str(photos.resolve()), "--out", str(payload)],
            ["inspect", str(payload)],
            ["evaluate", str(model), str(photos.resolve())],
        ):
            runs[f"{name} {asked[0]}"] = partial(_command, code, asked)
    timings = interleaved(runs, ROUNDS)
    return {
        name: {verb: timings[f"{name} {verb}"].seconds for verb in ("embed", "inspect", "evaluate")}
        for name in versions
    }


def _write_photos(folder: Path) -> None:
    """The first 100 test images as files, a folder a class."""
    images = read_dataset("fashion:test").select(np.arange(100))
    for number, label in enumerate(images.labels):
        path = folder / images.class_names[label].replace("/", "-") / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        images.image(number).save(path)


def _command(code: Path, asked: list[str]) -> None:
    """Run a verb of the fglfast that lies there."""
    environment = os.environ | {"PYTHONPATH": str(code.resolve())}
    command = [sys.executable, "-m", "fglfast", *asked]
    done = subprocess.run(command, cwd=code, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        reason = next((line for line in said if line.startswith("error")), said[-1])
        raise FglError(f"{code}: {asked[0]}: {reason}", "run it there by hand")


def _checkout(commit: str, folder: Path) -> Path:
    """The files of a commit."""
    if not folder.exists():
        folder.mkdir()
        archive = subprocess.run(["git", "archive", commit], cwd=HERE, stdout=subprocess.PIPE, check=True)
        subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = {name: median(run["seconds"].get(name, 0.0) for run in runs) for name in runs[0]["seconds"]}
    return {"accuracy": median(run["accuracy"] for run in runs), "seconds": seconds}


if __name__ == "__main__":
    typer.run(main)
