"""fglfast beside its peers: the same model folder, noise, text, solver, steps, guidance and batch, in one run.

Every contender is a process that loads once; then all of them draw a batch in turn, round after round.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Timer
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from benchmarks.contender import WITHOUT
from benchmarks.results_file import save_result
from fglfast.base.console import note
from fglfast.base.errors import FglError, UsageError
from fglfast.base.machine import native_bfloat16
from fglfast.base.timing import Timing, interleaved
from fglfast.engine.backends import resolved, worth_measuring
from fglfast.engine.recipe import Recipe, find_recipe
from fglfast.generator.load import read_shapes
from fglfast.generator.text import load_prompts, resolve_model
from fglfast.generator.text_encoder import TextEncoder
from fglfast.lab.bench.operations import count_operations
from fglfast.sampler.schedule import Sampling, Schedule
from fglfast.synthesis.plan import Item
from fglfast.synthesis.starting_noise import starting_noises

WORKER = Path(__file__).with_name("contender.py")
PEERS = (
    "diffusers eager",
    "diffusers channels_last",
    "diffusers torch.compile",
    "optimum-intel",
    "optimum-intel float32",
    "optimum-intel static",
    "optimum-intel static float32",
    "optimum-onnx",
)
REFERENCE = "diffusers eager"
OURS = "fglfast "
PAUSE = 0.3  # seconds for the threads of the contender before to go to sleep
LAST_WORDS = 5.0  # seconds
PATIENCE = 400.0  # seconds until a contender must have drawn once; tuning a compiler's kernels can take all day
REFUSED = Path(".venv-peers/refused.txt")  # what pip said of the peers that it would not install


class Contender:
    """A worker process and the two ends of its pipe.

    Attributes:
        told: what the worker said when it was ready, or `{"error": ...}`.
        peak_memory: bytes, after the last round.
        ceilings: of the one that measures them, TFLOP/s by precision.
    """

    def __init__(self, python: str) -> None:
        environment = os.environ | {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [python, "-W", "ignore", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("FGLFAST_DEBUG") else subprocess.DEVNULL,
            text=True,
            bufsize=1,
            env=environment,
        )
        self.peak_memory = 0
        self.ceilings: dict[str, float] = {}
        self.told: dict[str, Any] = {}

    def load(self, ask: dict[str, Any]) -> None:
        """Load, and draw the first round; who is not ready when `PATIENCE` ends is ended."""
        began, timer = time.monotonic(), Timer(PATIENCE, self.process.kill)
        timer.start()
        self.told = self._ask(ask)
        timer.cancel()
        if "error" in self.told and time.monotonic() - began > PATIENCE:
            self.told = {"error": f"it was not ready after {PATIENCE:.0f} s"}

    def draw(self) -> None:
        """One round; returns when the pixels are there."""
        answer = self._ask({})
        if "error" in answer:
            raise RuntimeError(answer["error"])
        self.peak_memory, self.ceilings = answer["peak_memory_bytes"], answer["ceilings"] or {}

    def close(self) -> None:
        """End the worker, in the middle of its work if need be."""
        assert self.process.stdin
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=LAST_WORDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        return json.loads(line) if line else {"error": f"the process ended with status {self.process.wait()}"}


def main(
    model: Annotated[str, typer.Option(help="mini, a diffusers folder or a hub id.")] = "mini",
    recipe: Annotated[str, typer.Option(help="Whose solver and image size are used.")] = "mini",
    ours: Annotated[str, typer.Option(help="BACKEND or BACKEND:PRECISION, with commas; what auto tries, int8.")] = "",
    peers: Annotated[str, typer.Option(help="Peers, with commas; all of them.")] = ",".join(PEERS),
    python: Annotated[Path, typer.Option(help="Interpreter of the peers.")] = Path(".venv-peers/bin/python"),
    batch: int = 64,
    steps: int = 20,
    guidance: float = 2.0,
    dtype: Annotated[str, typer.Option(help="Of the PyTorch peers.")] = "float32",
    rounds: int = 7,
    engines: Path = Path("engines/build"),
    name: Annotated[str, typer.Option(help="Name of the result.")] = "peers",
) -> None:
    """Measure all in turn and save `benchmarks/results/NAME.json`."""
    found = find_recipe(recipe)
    sampling = Sampling(steps=steps, guidance_scale=guidance, scheduler=found.sampling.scheduler)
    found = found.model_copy(update={"sampling": sampling, "unet_batch": batch, "vae_batch": batch})
    names = {f"{OURS}{backend}": sys.executable for backend in (ours.split(",") if ours else worth_measuring())}
    names |= {peer: str(python) for peer in peers.split(",")}
    result = compare(found, resolve_model(model), names, dtype, rounds, engines)
    show(result, save_result(name, result))


def compare(
    recipe: Recipe, folder: Path, names: Mapping[str, str], dtype: str, rounds: int, engines: Path
) -> dict[str, Any]:
    """Measure contenders in turn; what cannot be loaded or does not fit beside the others is left out.

    Args:
        recipe: image size, solver, steps, guidance; `unet_batch` images are drawn together, `vae_batch` only ours see.
        folder: the model.
        names: contenders, each with the interpreter that has its packages.
        dtype: of the PyTorch peers.
        rounds: timed rounds; two more warm up, the first of them alone on the machine.
        engines: folder of our compiled engines.
    """
    sampling, batch = recipe.sampling, recipe.unet_batch
    schedule, shapes = Schedule.of_model(folder, sampling), read_shapes(folder, recipe.image_size)
    if shapes.text_length != shapes.tokens:
        raise UsageError("the peers' call takes no pooled embedding", "use a Stable Diffusion 1.x or 2.x model")
    settings = {
        "model": folder.name,
        "image_size": recipe.image_size,
        "batch": batch,
        "steps": sampling.steps,
        "guidance_scale": sampling.guidance_scale,
        "solver": schedule.scheduler,
        "dtype": dtype,
        "rounds": rounds,
    }
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as started:
        work = Path(temporary)
        ask = settings | {
            "model": str(folder),
            "vae_batch": recipe.vae_batch,
            "guidance": sampling.guidance_scale,
            "scheduler": sampling.scheduler,
            "solver": (schedule.scheduler, schedule.config),
            "engines": str(engines),
            "inputs": str(_inputs(folder, shapes.latent, batch, work)),
            "precisions": precisions(names, dtype),
        }
        workers, left_out = _start({"ceiling": sys.executable, **names}, ask, work, started)
        if "ceiling" in left_out:
            raise FglError(f"the ceiling could not be measured: {left_out['ceiling']}", f"is {dtype} possible here?")
        note(f"{rounds} rounds of {', '.join(workers)}")
        timings = interleaved({each: worker.draw for each, worker in workers.items()}, rounds, 0, pause=PAUSE)
        operations = count_operations(folder, shapes, schedule).image
        ceilings = workers.pop("ceiling").ceilings
        rows = [_row(each, worker, timings[each], batch, operations, work) for each, worker in workers.items()]
    for row in rows:  # who is faster than all that was tried is the ceiling
        ceilings[row["precision"]] = max(ceilings[row["precision"]], row["tflops"])
    return {
        "settings": settings,
        "ceilings_tflops": {precision: round(tflops, 4) for precision, tflops in ceilings.items()},
        "tflop_per_image": round(operations / 1e12, 6),
        "contenders": [
            row | {"share": round(row["tflops"] / ceilings[row["precision"]], 4)}
            for row in sorted(rows, key=lambda row: -row["images_per_second"])
        ],
        "left_out": left_out,
    }


def precisions(names: Iterable[str], dtype: str) -> list[str]:
    """What the contenders may compute in, so what a ceiling is measured for; OpenVINO may take bfloat16 by itself."""
    found = {dtype}
    for name in names:
        if name.startswith(OURS):
            backend, _, precision = name.removeprefix(OURS).partition(WITHOUT)[0].partition(":")
            found.add(resolved(backend, precision or "auto"))
        elif "optimum" in name:
            found |= {"float32", *(["bfloat16"] if native_bfloat16() else [])}
    return sorted(found)


def show(result: dict[str, Any], path: Path) -> None:
    """A line for each contender, fastest first."""
    for row in result["contenders"]:
        share = f"{row['share']:6.1%} of the ceiling in {row['precision']}"
        typer.echo(f"{row['images_per_second']:8.2f} images/s  {share}  {row['name']}")
    typer.echo(f"{path}; left out: {', '.join(result['left_out']) or 'none'}")


def _inputs(folder: Path, latent: tuple[int, int, int], batch: int, work: Path) -> Path:
    """What all draw from: our starting noise and one class-level prompt, embedded as a payload carries it."""
    prompts, encoder = load_prompts(folder), TextEncoder.load(folder)
    text_2LD = encoder.encode(encoder.tokenize([prompts.class_level.format(label="bag"), prompts.negative]))
    noise_BCHW = starting_noises(0, [Item(k, 0, 0, k, "bag", "") for k in range(batch)], latent)
    path = work / "inputs.npz"
    np.savez(path, noise=noise_BCHW, text=text_2LD[0], negative=text_2LD[1])
    return path


def _start(
    names: Mapping[str, str], ask: dict[str, Any], work: Path, started: ExitStack
) -> tuple[dict[str, Contender], dict[str, str]]:
    """Load one after the other, then let all draw once; who cannot is left out with the reason."""
    workers, left_out = {}, {}
    for name, python in names.items():
        note(f"loading {name}")
        worker = workers[name] = Contender(python)
        started.callback(worker.close)
        worker.load(ask | {"contender": name, "pixels": str(_pixels(work, name))})
    for name, worker in list(workers.items()):
        try:
            if "error" not in worker.told:
                worker.draw()
        except RuntimeError as error:
            worker.told = {"error": str(error)}
        if "error" in worker.told:
            workers.pop(name).close()
            left_out[name] = _refusal(name) or worker.told["error"]
            note(f"left out {name}: {left_out[name]}")
    return workers, left_out


def _refusal(name: str) -> str:
    """What pip said of a package that it would not install beside the others."""
    lines = REFUSED.read_text(encoding="utf-8").splitlines() if REFUSED.exists() else []
    said = [line.strip() for line in lines if line.strip().startswith(name) or "(constraint)" in line]
    return f"not installable beside the other peers: {'; '.join(said[:1] + said[-1:])}" if said else ""


def _row(name: str, worker: Contender, timing: Timing, batch: int, operations: int, work: Path) -> dict[str, Any]:
    return {
        "name": name,
        "precision": worker.told["precision"],
        "images_per_second": round(batch / timing.seconds, 3),
        "tflops": round(batch * operations / timing.seconds / 1e12, 4),
        "timing": timing.model_dump(),
        "peak_memory_bytes": worker.peak_memory,
        "against_eager": _difference(_pixels(work, name), _pixels(work, REFERENCE)),
        **{key: worker.told[key] for key in ("load_seconds", "first_round_seconds", "versions")},
        **({"attention": worker.told["attention"]} if worker.told["attention"] else {}),
    }


def _pixels(work: Path, name: str) -> Path:
    return work / f"{name.replace(' ', '-').replace(':', '-')}.npy"


def _difference(found: Path, expected: Path) -> dict[str, float | int | None] | None:
    """How a batch of images differs from the reference's: largest difference of a byte, PSNR in dB (None if equal)."""
    if not expected.exists():
        return None
    images: list[NDArray[np.float64]] = [np.load(path).astype(np.float64) for path in (found, expected)]
    error = images[0] - images[1]
    mean = float(np.square(error).mean())
    psnr = round(10 * float(np.log10(255**2 / mean)), 1) if mean else None
    return {"largest_difference": int(np.abs(error).max()), "psnr": psnr}


if __name__ == "__main__":
    torch.set_num_threads(1)
    typer.run(main)
