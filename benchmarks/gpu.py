"""Stable Diffusion 1.5 on an NVIDIA GPU: every engine, training, two ranks, beside diffusers.

512x512, 25 guided steps, random weights. All of it takes longer than one call may: what a call has finished the next
one finds, row by row, in the folder of engines and in PyTorch's own cache, until one comes to the table.
"""

import gc
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from benchmarks.contender import WITHOUT
from benchmarks.gpu_rows import XFORMERS, Row, Rows, engines_here, limited, two_ranks
from benchmarks.peers import OURS, REFERENCE, compare, show
from benchmarks.results_file import RESULTS, save_result
from fglfast.base.console import note
from fglfast.base.errors import FglError, MissingExtraError
from fglfast.engine.batch_search import search_batches
from fglfast.engine.recipe import Recipe, find_recipe
from fglfast.generator.families import random_model
from fglfast.generator.text import resolve_model
from fglfast.lab.bench.measure import contenders
from fglfast.lab.bench.training_step import training_rate, training_work
from fglfast.verbs.command import exits

COMPILED = "diffusers torch.compile max-autotune"
PRECISION = "bfloat16"  # of the peers and of the largest matrix product
LARGEST = 32  # images drawn together: the peers decode them in one pass, and all contenders share the memory
SIDE = 224  # of a training image
# Half of what an H200 can do: 790 TFLOP/s, measured, over 42.7 TFLOP an image.
IMAGES_PER_SECOND, OVER_COMPILED, OVER_EAGER = 9.3, 1.3, 2.0


@exits
def main(
    model: Annotated[str | None, typer.Option(help="A diffusers folder or hub id.", show_default="random")] = None,
    recipe: Annotated[str, typer.Option(help="Whose solver and image size are used.")] = "sd15",
    batch: Annotated[int | None, typer.Option(min=2, help="Images together.", show_default="measured")] = None,
    steps: Annotated[int, typer.Option(min=1)] = 25,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    ours: Annotated[str, typer.Option(help="BACKEND:PRECISION, with commas.", show_default="all here")] = "",
    peers: Annotated[str, typer.Option(help="Peers, with commas.")] = f"{REFERENCE},{COMPILED}",
    arch: Annotated[str, typer.Option(help="Of the global model that is trained.")] = "resnet18",
    images: Annotated[int, typer.Option(min=1, help="Images of each class that two ranks draw.")] = 8,
    limit: Annotated[int, typer.Option(min=1, help="Seconds, after which the same command goes on.")] = 1200,
    engines: Path = Path("engines/build"),
    name: Annotated[str, typer.Option(help="Name of the result.")] = "gpu",
    device: Annotated[Literal["cuda", "any"], typer.Option(help="any tries the script itself.")] = "cuda",
) -> None:
    """Measure row by row into `benchmarks/results/NAME/`, then write `NAME.json` and say which targets are reached."""
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingExtraError(
            "this benchmark needs a CUDA device, and PyTorch finds none",
            "on a machine with an NVIDIA GPU: pip install -e '.[server,gpu]'",
        )
    with limited(limit):
        engines.mkdir(parents=True, exist_ok=True)
        folder = resolve_model(model) if model else random_model("sd15", engines / "random-sd15")
        found = asked_for(recipe, steps)
        settings = {"model": folder.name, "recipe": found.model_dump(mode="json"), "batch": batch, "rounds": rounds}
        rows = Rows(RESULTS / name, settings)
        sizes = rows.get("images together", lambda: batches(found, folder, engines, batch))
        if sizes is None:
            raise FglError(f"no batch works: {rows.failed.popitem()[1]}", "give --batch, or see `fglfast doctor`")
        found = found.model_copy(update={key: sizes[key] for key in ("unet_batch", "vae_batch")})
        for result in measured(rows, found, folder, engines, rounds, ours, peers, arch, images):
            path = save_result(name, result)  # after each part: what is cut short leaves a table of what is there
    show(result, path)
    for line in verdicts(result):
        typer.echo(line)


def asked_for(recipe: str, steps: int) -> Recipe:
    """The recipe's solver and size, on eager PyTorch."""
    found = find_recipe(recipe)
    sampling = found.sampling.model_copy(update={"steps": steps})
    return found.model_copy(update={"backend": "torch", "precision": PRECISION, "sampling": sampling})


def measured(
    rows: Rows,
    recipe: Recipe,
    folder: Path,
    engines: Path,
    rounds: int,
    ours: str,
    peers: str,
    arch: str,
    images: int,
) -> Iterator[dict[str, Any]]:
    """The fastest engine beside the peers with every engine's row, then also training, then also two ranks."""

    def beside(names: Sequence[str]) -> Row:
        return compare(recipe, folder, dict.fromkeys(names, sys.executable), PRECISION, rounds, engines)

    def alone(name: str) -> Row:
        made = beside([name])
        if name in made["left_out"]:
            raise FglError(made["left_out"][name], "use another backend or precision")
        return made["contenders"][0] | {"ceilings_tflops": made["ceilings_tflops"]}  # type: ignore[no-any-return]

    names = [OURS + each for each in (ours.split(",") if ours else engines_here())]
    drawn: list[Row] = []
    if len(names) > 1:  # the only one is measured beside the peers alone
        tried = {name: rows.get(name, lambda name=name: alone(name)) for name in names}  # type: ignore[misc]
        drawn = sorted((row for row in tried.values() if row), key=lambda row: -row["images_per_second"])
        if not drawn:
            raise FglError(f"no engine draws here: {'; '.join(rows.failed.values())}", "see `fglfast doctor`")
    fastest = [drawn[0]["name"] if drawn else names[0], *peers.split(",")]
    result = rows.get("side by side", lambda: beside(fastest))
    if result is None:
        raise FglError(f"nothing was compared: {rows.failed['side by side']}", "see `fglfast doctor`")
    drawn = drawn or [row for row in result["contenders"] if row["name"].startswith(OURS)]
    ceiling, side = result["ceilings_tflops"][PRECISION], min(SIDE, recipe.image_size)
    result |= {
        "vae_batch": recipe.vae_batch,
        "engines": drawn,
        "training": None,
        "two_ranks": None,
        "failed": rows.failed,
        "targets": targets(result["contenders"]),
        "attention": attention(drawn),
    }
    yield result
    trained = rows.get(
        f"training {arch}",
        lambda: training_rate(arch, side, training_work(arch, side, 4 * recipe.unet_batch, 2), ceiling).model_dump(
            mode="json"
        ),
    )
    yield result | {"training": trained}
    ranks = rows.get("two ranks", lambda: two_ranks(drawing(recipe, fastest[0]), folder, engines, images))
    yield result | {"training": trained, "two_ranks": ranks}


def drawing(recipe: Recipe, name: str) -> Recipe:
    """With what `synthesize` draws by the engine of one of our contenders, which is built."""
    rows = recipe.unet_batch * (2 if recipe.sampling.guidance_scale > 1 else 1)
    [found] = contenders(recipe, [name.removeprefix(OURS).partition(WITHOUT)[0]])
    return found.model_copy(update={"unet_batch": rows})


def batches(recipe: Recipe, folder: Path, engines: Path, batch: int | None) -> Row:
    """Rows of a pass: as many as asked for, or those that make the eager engine fastest."""
    if batch is None:
        recipe = search_batches(recipe, folder, engines)
        gc.collect()
        torch.cuda.empty_cache()
        batch = min(recipe.unet_batch, LARGEST)
    note(f"{batch} images together")
    return {"unet_batch": batch, "vae_batch": min(batch, recipe.vae_batch)}


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
    """The table of engines, then a line for training, two ranks, each target, and xformers against SDPA."""
    lines = [
        f"{row['name']}: {row['images_per_second']} images/s, {row['share']:.1%} of the matrix product, "
        f"{row['peak_memory_bytes'] / 2**30:.1f} GiB, ready in {row['load_seconds']} s"
        for row in result["engines"]
    ]
    lines += [f"{name} failed: {reason}" for name, reason in result["failed"].items()]
    if trained := result["training"]:
        rate, share = trained["images_per_second"], trained["share"]
        lines.append(f"training {trained['arch']} at {trained['side']}: {rate} images/s, {share:.1%}")
    if ranks := result["two_ranks"]:
        same = "the same" if ranks["equal"] else "OTHER"
        lines.append(f"two ranks: {ranks['seconds_by_two']} s, alone {ranks['seconds_alone']} s, {same} tars")
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
