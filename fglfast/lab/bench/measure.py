"""One run of the benchmark: open the engines, measure everything in turn, keep one record."""

import resource
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import Field, ValidationError

from fglfast.base.config import Settings, first_problem
from fglfast.base.console import note
from fglfast.base.errors import UsageError
from fglfast.base.machine import machine_facts, native_bfloat16, package_versions
from fglfast.base.timing import Run, Timing, interleaved
from fglfast.engine.backends import NAMES, chosen
from fglfast.engine.build import Engine, build_engine
from fglfast.engine.manifest import device_name
from fglfast.engine.passes import decoder_pass, unet_pass
from fglfast.engine.recipe import Recipe
from fglfast.generator.parts import name_of
from fglfast.lab.bench import work
from fglfast.lab.bench.operations import count_operations
from fglfast.lab.bench.records import (
    BenchRecord,
    Ceiling,
    EncodeRate,
    EndToEnd,
    EngineBench,
    Operations,
    Rate,
    TrainingRate,
)
from fglfast.lab.bench.training import training_rate, training_seconds
from fglfast.sampler.schedule import Sampling, Schedule
from fglfast.synthesis.writer import ENCODERS
from fglfast.training.settings import check_arch
from fglfast.training.worker import native_half

BATCHES = 2  # of an end-to-end round: one is encoded while the other is drawn
LARGE_SIDE = 512
PRODUCTS = 4
PAUSE = 0.2


class BenchSettings(Settings):
    """What is measured, besides the engines.

    Attributes:
        rounds: timed rounds; one more warms up.
        arch: of the global model whose training step is timed.
        train_batch: images a training step.
        train_side: largest side of a training image, in pixels.
        encode_images: images of one round of encoding.
        product_side: rows and columns of the matrices whose product is the ceiling; None for the device's default.
        longest_round: seconds; a part whose round would take longer is left out, and the record says so.
    """

    rounds: int = Field(5, ge=1)
    arch: str = "resnet18"
    train_batch: int = Field(128, ge=2)
    train_side: int = Field(224, ge=8)
    encode_images: int = Field(32, ge=1)
    product_side: int | None = Field(None, ge=1)
    longest_round: float = Field(300.0, gt=0)


def contenders(recipe: Recipe, names: Sequence[str], batch: int | None = None) -> list[Recipe]:
    """A recipe once for each BACKEND or BACKEND:PRECISION.

    Args:
        recipe: what they share.
        names: separate or separated by commas; none for the recipe's own backend.
        batch: images drawn together; a smaller one makes the decoder's batch as small.

    Raises:
        UsageError: no such backend or precision, or not on this machine.
        MissingExtraError: a backend is not installed, or the package of a precision.
    """
    asked = [name.strip() for part in names for name in part.split(",") if name.strip()] or [recipe.backend]
    made = []
    for name in asked:
        backend, _, precision = name.partition(":")
        changes: dict[str, str | int] = {"backend": backend, "precision": precision or recipe.precision}
        if batch is not None:
            changes |= {"unet_batch": batch, "vae_batch": min(recipe.vae_batch, batch)}
        try:
            made.append(Recipe.model_validate(recipe.model_dump() | changes))
        except ValidationError as error:
            raise UsageError(
                f"{name}: {first_problem(error)}", f"give BACKEND or BACKEND:PRECISION; backends: {', '.join(NAMES)}"
            ) from error
        chosen(made[-1].backend, made[-1].precision)
    return made


def bench(recipes: Sequence[Recipe], model: Path, engines: Path, settings: BenchSettings) -> BenchRecord:
    """Measure engines side by side, and what surrounds them.

    Args:
        recipes: one an engine, alike but for backend and precision.
        model: the diffusers folder.
        engines: folder of compiled engines by key.
        settings: what else.

    Raises:
        UsageError: settings that cannot be meant.
        FglError: an engine cannot be built.
    """
    check_arch(settings.arch)
    sampling = recipes[0].sampling
    schedule = Schedule.of_model(model, sampling)
    opened = _open(recipes, model, engines)
    operations = count_operations(model, next(iter(opened.values())).shapes, schedule)
    ceilings, passes = _passes(opened, operations, settings)
    left_out: list[str] = []
    full = _end_to_end(opened, sampling, operations, passes, ceilings, settings, left_out)
    side = recipes[0].image_size
    training = _training(min(side, settings.train_side), ceilings[_training_dtype()], settings, left_out)
    return BenchRecord(
        model=name_of(model),
        image_size=side,
        batch=recipes[0].unet_batch,
        sampling=sampling,
        machine=machine_facts(device_name()),
        versions=package_versions(),
        ceilings=tuple(ceilings.values()),
        operations=operations,
        engines=tuple(
            EngineBench(
                name=name,
                key=engine.key,
                ceiling=ceiling_dtype(engine),
                unet=passes[f"{name} unet"],
                decoder=passes[f"{name} decoder"],
                end_to_end=full.get(name),
            )
            for name, engine in opened.items()
        ),
        encode=_encode(side, settings),
        training=training,
        peak_memory_bytes=peak_memory(),
        left_out=tuple(left_out),
    )


def ceiling_dtype(engine: Engine) -> str:
    """The dtype whose matrix product an engine is held against: its own, or for eight bits what stays of floats."""
    precision = engine.manifest.key.build.precision
    if precision in ("int8", "float8"):
        return "bfloat16" if torch.cuda.is_available() else "float32"
    return precision


def measure_ceiling(dtype: str, side: int | None) -> tuple[Run, int]:
    """The matrix product that is a dtype's ceiling, and its operations."""
    if side is None:
        slow = dtype != "float32" and not native_bfloat16()
        side = 8192 if torch.cuda.is_available() else 512 if slow else 2048
    return work.matrix_product(getattr(torch, dtype), side, PRODUCTS), 2 * side**3 * PRODUCTS


def peak_memory() -> int:
    """Most bytes this process ever held: of GPU memory as torch counts it, or else resident."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _open(recipes: Sequence[Recipe], model: Path, engines: Path) -> dict[str, Engine]:
    """The engines by name; two recipes that come to the same engine are measured once."""
    opened = {}
    for recipe in recipes:
        engine = build_engine(recipe, model, engines)
        build = engine.manifest.key.build
        opened[build.backend if build.precision == "float32" else f"{build.backend} {build.precision}"] = engine
    return opened


def _passes(
    opened: dict[str, Engine], operations: Operations, settings: BenchSettings
) -> tuple[dict[str, Ceiling], dict[str, Rate]]:
    """Ceilings, UNet and decoder of all engines, in turn."""
    dtypes = sorted({ceiling_dtype(engine) for engine in opened.values()} | {_training_dtype()})
    products = {dtype: measure_ceiling(dtype, settings.product_side) for dtype in dtypes}
    runs: dict[str, Run] = {f"ceiling {dtype}": run for dtype, (run, _) in products.items()}
    for name, engine in opened.items():
        build = engine.manifest.key.build
        runs |= {
            f"{name} unet": unet_pass(engine.networks, engine.shapes, build.unet_batch),
            f"{name} decoder": decoder_pass(engine.networks, engine.shapes, build.vae_batch),
        }
    note(f"passes: {settings.rounds} rounds of {', '.join(opened)}")
    timings = interleaved(runs, settings.rounds, pause=PAUSE)
    ceilings = {
        dtype: Ceiling(
            dtype=dtype,
            threads=torch.get_num_threads(),
            side=round((products[dtype][1] / (2 * PRODUCTS)) ** (1 / 3)),
            tflops=products[dtype][1] / timings[f"ceiling {dtype}"].seconds / 1e12,
            timing=timings[f"ceiling {dtype}"],
        )
        for dtype in dtypes
    }
    rates = {}
    for name, engine in opened.items():
        build, ceiling = engine.manifest.key.build, ceilings[ceiling_dtype(engine)]
        for part, rows, each in (
            ("unet", build.unet_batch, operations.unet),
            ("decoder", build.vae_batch, operations.decoder),
        ):
            rates[f"{name} {part}"] = _rate(rows, each, timings[f"{name} {part}"], ceiling)
    return ceilings, rates


def _end_to_end(
    opened: dict[str, Engine],
    sampling: Sampling,
    operations: Operations,
    passes: dict[str, Rate],
    ceilings: dict[str, Ceiling],
    settings: BenchSettings,
    left_out: list[str],
) -> dict[str, EndToEnd]:
    runs = {}
    for name, engine in opened.items():
        images = BATCHES * engine.manifest.key.build.unet_batch
        seconds = images * operations.image / (1e12 * passes[f"{name} unet"].tflops)
        if seconds > settings.longest_round:
            left_out.append(f"{name} end to end: a round of {images} images would take about {_time(seconds)}")
        else:
            runs[name] = work.Synthesis(engine, sampling, images)
    note(f"end to end: {settings.rounds} rounds of {', '.join(runs) or 'nothing'}")
    found = {}
    for name, timing in interleaved(runs, settings.rounds, pause=PAUSE).items():
        shares = [result.network_share for result in runs[name].results[-settings.rounds :]]
        images, ceiling = BATCHES * opened[name].manifest.key.build.unet_batch, ceilings[ceiling_dtype(opened[name])]
        rate = _rate(images, operations.image, timing, ceiling)
        found[name] = EndToEnd(**rate.model_dump(), network_share=statistics.median(shares))
    return found


def _encode(side: int, settings: BenchSettings) -> tuple[EncodeRate, ...]:
    runs = {
        (image_format, size): work.Encoding(image_format, size, settings.encode_images)
        for size in sorted({side, LARGE_SIDE})
        for image_format in ("png", "webp")
    }
    note(f"encode and write: {settings.rounds} rounds of {settings.encode_images} images")
    timings = interleaved({f"{kind} {size}": run for (kind, size), run in runs.items()}, settings.rounds)
    return tuple(
        EncodeRate(
            image_format=kind,
            side=size,
            threads=ENCODERS,
            images_per_second=run.images / timings[f"{kind} {size}"].seconds,
            bytes_per_image=run.bytes // run.images,
            timing=timings[f"{kind} {size}"],
        )
        for (kind, size), run in runs.items()
    )


def _training(side: int, ceiling: Ceiling, settings: BenchSettings, left_out: list[str]) -> TrainingRate | None:
    seconds = training_seconds(settings.arch, side, settings.train_batch, ceiling.tflops)
    if seconds > settings.longest_round:
        left_out.append(f"training step: a round would take more than {_time(seconds)}")
        return None
    note(f"training step: {settings.rounds} rounds of {settings.arch} at {side}x{side}")
    return training_rate(settings.arch, side, settings.train_batch, settings.rounds, ceiling.tflops)


def _training_dtype() -> str:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return "bfloat16" if native_half(device) else "float32"


def _rate(rows: int, operations: int, timing: Timing, ceiling: Ceiling) -> Rate:
    tflops = rows * operations / timing.seconds / 1e12
    return Rate(
        rows=rows, per_second=rows / timing.seconds, tflops=tflops, share=tflops / ceiling.tflops, timing=timing
    )


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
