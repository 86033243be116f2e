"""Stable Diffusion 1.5 on an NVIDIA GPU: ours beside diffusers, against the targets. Never run on a GPU so far.

512x512, bfloat16, 25 guided steps, random weights. Building and compiling takes longer than one call may: what a call
has finished the next one finds, in the folder of engines and in PyTorch's own cache, until one comes to the end.
"""

import gc
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from benchmarks.contender import WITHOUT
from benchmarks.peers import REFERENCE, compare, show
from benchmarks.results_file import save_result
from fglfast.base.console import note
from fglfast.base.errors import ExitCode, MissingExtraError
from fglfast.engine.backends import find_backend, installed
from fglfast.engine.batch_search import search_batches
from fglfast.engine.recipe import Recipe, find_recipe
from fglfast.generator.families import random_model
from fglfast.generator.text import resolve_model
from fglfast.verbs.command import exits

COMPILED = "diffusers torch.compile max-autotune"
OURS = "fglfast "
PRECISIONS = ("bfloat16", "float16")  # the first that a backend can do
XFORMERS = "xformers"
LARGEST = 32  # images drawn together: the peers decode them in one pass, and all contenders share the memory
# Half of what an H200 can do: 790 TFLOP/s, measured, over 42.7 TFLOP an image.
IMAGES_PER_SECOND, OVER_COMPILED, OVER_EAGER = 9.3, 1.3, 2.0


@exits
def main(
    model: Annotated[str | None, typer.Option(help="A diffusers folder or hub id.", show_default="random")] = None,
    recipe: Annotated[str, typer.Option(help="Whose solver and image size are used.")] = "sd15",
    batch: Annotated[int | None, typer.Option(min=2, help="Images together.", show_default="measured")] = None,
    steps: Annotated[int, typer.Option(min=1)] = 25,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    ours: Annotated[str, typer.Option(help="BACKEND:PRECISION, with commas.", show_default="16-bit ones here")] = "",
    peers: Annotated[str, typer.Option(help="Peers, with commas.")] = f"{REFERENCE},{COMPILED}",
    limit: Annotated[int, typer.Option(min=1, help="Seconds, after which the same command goes on.")] = 540,
    engines: Path = Path("engines/build"),
    name: Annotated[str, typer.Option(help="Name of the result.")] = "gpu",
    device: Annotated[Literal["cuda", "any"], typer.Option(help="any tries the script itself.")] = "cuda",
) -> None:
    """Measure all in turn, save `benchmarks/results/NAME.json`, and say which targets are reached."""
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingExtraError(
            "this benchmark needs a CUDA device, and PyTorch finds none",
            "on a machine with an NVIDIA GPU: pip install -e '.[gpu]'",
        )
    found = find_recipe(recipe)
    found = found.model_copy(
        update={
            "backend": "torch",
            "precision": PRECISIONS[0],
            "sampling": found.sampling.model_copy(update={"steps": steps}),
        }
    )
    with limited(limit):
        engines.mkdir(parents=True, exist_ok=True)
        folder = resolve_model(model) if model else random_model("sd15", engines / "random-sd15")
        found = with_batches(found, folder, engines, batch)
        names = [OURS + each for each in (ours.split(",") if ours else worth_measuring())] + peers.split(",")
        result = compare(found, folder, dict.fromkeys(names, sys.executable), PRECISIONS[0], rounds, engines)
    rows = result["contenders"]
    result |= {"vae_batch": found.vae_batch, "targets": targets(rows), "attention": attention(rows)}
    show(result, save_result(name, result))
    for line in verdicts(result):
        typer.echo(line)


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """End the process, whatever it is at, when the block takes so long: exit code 5.

    The contenders end too, for their standard input closes; a half-built engine is never found.
    """

    def end() -> None:
        note(f"error: not done after {seconds} s; what was built and compiled is kept")
        note("  hint: run the same command again, until it prints images/s")
        os._exit(ExitCode.INCOMPLETE)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def with_batches(recipe: Recipe, folder: Path, engines: Path, batch: int | None) -> Recipe:
    """The recipe with the batch asked for, or with those that make the eager engine fastest."""
    if batch is None:
        recipe = search_batches(recipe, folder, engines)
        gc.collect()
        torch.cuda.empty_cache()
        batch = min(recipe.unet_batch, LARGEST)
    note(f"{batch} images together")
    return recipe.model_copy(update={"unet_batch": batch, "vae_batch": min(batch, recipe.vae_batch)})


def worth_measuring() -> list[str]:
    """Every backend here that computes in 16 bits; those that may use xformers, where it is, also without."""
    made = []
    for name in installed():
        backend = find_backend(name)
        able = [precision for precision in PRECISIONS if precision in backend.precisions]
        made += [f"{name}:{precision}" for precision in able[:1]]
        if able and XFORMERS in backend.optional and find_spec(XFORMERS):
            made.append(f"{made[-1]}{WITHOUT}{XFORMERS}")
    return made


def targets(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was to be reached, and what was: `found` is None where a contender is missing."""
    rates = {row["name"]: row["images_per_second"] for row in rows}
    best = max((rate for name, rate in rates.items() if name.startswith(OURS)), default=None)
    wanted = [("images/s", IMAGES_PER_SECOND, best)]
    for peer, over in ((COMPILED, OVER_COMPILED), (REFERENCE, OVER_EAGER)):
        wanted.append((f"times {peer}", over, best / rates[peer] if best and peer in rates else None))
    return [
        {
            "what": what,
            "wanted": least,
            "found": rate and round(rate, 3),
            "reached": None if rate is None else rate >= least,
        }
        for what, least, rate in wanted
    ]


def attention(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """xformers against PyTorch's own kernels: seconds for each shape where it ran, images/s with and without it."""
    measured = [
        row["attention"] for row in rows if any(XFORMERS in taken for taken in row.get("attention", {}).values())
    ]
    shapes = {
        shape: {"fastest": min(seconds, key=seconds.__getitem__), "seconds": seconds}
        for shape, seconds in (measured[0] if measured else {}).items()
        if seconds
    }
    rates = {row["name"]: row["images_per_second"] for row in rows}
    ends = {
        name: {"with": rate, "without": rates[without]}
        for name, rate in rates.items()
        if (without := f"{name}{WITHOUT}{XFORMERS}") in rates
    }
    return {"shapes": shapes, "images_per_second": ends}


def verdicts(result: dict[str, Any]) -> list[str]:
    """A line for each target, and for xformers against SDPA."""
    lines = []
    for target in result["targets"]:
        said = "not measured"
        if target["found"] is not None:
            said = f"{target['found']}: {'reached' if target['reached'] else 'missed'}"
        lines.append(f"wanted {target['wanted']} {target['what']}: {said}")
    found = result["attention"]
    for shape, entry in found["shapes"].items():
        times = ", ".join(f"{kernel} {1e3 * taken:.3f} ms" for kernel, taken in entry["seconds"].items())
        lines.append(f"attention {shape}: {entry['fastest']} is fastest ({times})")
    for name, rates in found["images_per_second"].items():
        lines.append(f"{name}: {rates['with']} images/s, {rates['without']} without xformers")
    return lines if found["shapes"] else [*lines, "xformers against SDPA: not measured, xformers did not run here"]


if __name__ == "__main__":
    typer.run(main)
