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
from fglfast.base.machine import machine_facts, package_versions
from fglfast.base.timing import Run, Timing, interleaved
from fglfast.engine.backends import NAMES, chosen
from fglfast.engine.build import Engine, build_engine
from fglfast.engine.manifest import device_name
from fglfast.engine.passes import decoder_pass, unet_pass
from fglfast.engine.recipe import Recipe
from fglfast.generator.parts import name_of
from fglfast.lab.bench import work
from fglfast.lab.bench.ceiling import Probe, Work, highest, probes
from fglfast.lab.bench.operations import count_operations
from fglfast.lab.bench.records import BenchRecord, Ceiling, EncodeRate, EndToEnd, EngineBench, Operations, Rate
from fglfast.lab.bench.training_step import training_precision, training_rate, training_seconds, training_work
from fglfast.sampler.schedule import Sampling, Schedule
from fglfast.synthesis.writer import ENCODERS
from fglfast.training.settings import check_arch

BATCHES = 2  # of an end-to-end round: one is encoded while the other is drawn
LARGE_SIDE = 512
PAUSE = 0.2
PARTS = (" unet", " decoder", "")  # of what is timed of an engine, after its name


class BenchSettings(Settings):
    """What is measured, besides the engines.

    Attributes:
        rounds: timed rounds; one more warms up.
        arch: of the global model whose training step is timed.
        train_batch: images a training step.
        train_side: largest side of a training image, in pixels.
        encode_images: images of one round of encoding.
        longest_round: seconds; a part whose round would take longer is left out, and the record says so.
    """

    rounds: int = Field(5, ge=1)
    arch: str = "resnet18"
    train_batch: int = Field(128, ge=2)
    train_side: int = Field(224, ge=8)
    encode_images: int = Field(32, ge=1)
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
    """Measure engines side by side, a recipe each, alike but for backend and precision; and what surrounds them.

    Raises:
        UsageError: settings that cannot be meant.
        FglError: an engine cannot be built.
    """
    check_arch(settings.arch)
    sampling = recipes[0].sampling
    schedule = Schedule.of_model(model, sampling)
    opened = _open(recipes, model, engines)
    operations = count_operations(model, next(iter(opened.values())).shapes, schedule)
    tried, works = _passes(opened, operations, settings)
    left_out: list[str] = []
    full, shares = _end_to_end(opened, sampling, operations, works, settings, left_out)
    side = recipes[0].image_size
    train_side = min(side, settings.train_side)
    trained = _training(train_side, tried, settings, left_out)
    ceilings = _ceilings(opened, tried, works | full, trained)

    def rate(done: Work, name: str) -> Rate:
        return Rate(
            rows=done.rows,
            per_second=done.rows / done.timing.seconds,
            tflops=done.tflops,
            share=done.tflops / ceilings[precision_of(opened[name])].tflops,
            timing=done.timing,
        )

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
                ceiling=precision_of(engine),
                unet=rate(works[f"{name} unet"], name),
                decoder=rate(works[f"{name} decoder"], name),
                end_to_end=EndToEnd(**rate(full[name], name).model_dump(), network_share=shares[name])
                if name in full
                else None,
            )
            for name, engine in opened.items()
        ),
        encode=_encode(side, settings),
        training=trained and training_rate(settings.arch, train_side, trained, ceilings[training_precision()].tflops),
        peak_memory_bytes=peak_memory(),
        left_out=tuple(left_out),
    )


def precision_of(engine: Engine) -> str:
    """The precision that an engine computes most of a UNet in."""
    return engine.build.precision


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
        build = engine.build
        opened[build.backend if build.precision == "float32" else f"{build.backend} {build.precision}"] = engine
    return opened


Tried = dict[str, dict[str, tuple[Probe, Timing]]]  # by precision and probe


def _passes(
    opened: dict[str, Engine], operations: Operations, settings: BenchSettings
) -> tuple[Tried, dict[str, Work]]:
    """What finds the ceilings, UNet and decoder of all engines, in turn."""
    precisions = sorted({precision_of(engine) for engine in opened.values()} | {training_precision()})
    sought = {precision: probes(precision) for precision in precisions}
    runs: dict[str, Run] = {
        f"{name}, {precision}": probe.run for precision, found in sought.items() for name, probe in found.items()
    }
    parts: dict[str, tuple[int, int]] = {}
    for name, engine in opened.items():
        build = engine.build
        runs |= {
            f"{name} unet": unet_pass(engine.networks, engine.shapes, build.unet_batch),
            f"{name} decoder": decoder_pass(engine.networks, engine.shapes, build.vae_batch),
        }
        parts |= {
            f"{name} unet": (build.unet_batch, operations.unet),
            f"{name} decoder": (build.vae_batch, operations.decoder),
        }
    note(f"passes: {settings.rounds} rounds of {', '.join(opened)}")
    timings = interleaved(runs, settings.rounds, pause=PAUSE)
    tried = {
        precision: {name: (probe, timings[f"{name}, {precision}"]) for name, probe in found.items()}
        for precision, found in sought.items()
    }
    return tried, {name: Work(*part, timings[name]) for name, part in parts.items()}


def _ceilings(
    opened: dict[str, Engine], tried: Tried, works: dict[str, Work], trained: Work | None
) -> dict[str, Ceiling]:
    """The ceiling of each precision: of the probes, and of all that was done in it."""
    ceilings = {}
    for precision, found in tried.items():
        mine = [name for name, engine in opened.items() if precision_of(engine) == precision]
        held = {f"{name}{part}": works[f"{name}{part}"] for name in mine for part in PARTS if f"{name}{part}" in works}
        if trained and precision == training_precision():
            held["training"] = trained
        ceilings[precision] = highest(precision, found, held)
    return ceilings


def _end_to_end(
    opened: dict[str, Engine],
    sampling: Sampling,
    operations: Operations,
    works: dict[str, Work],
    settings: BenchSettings,
    left_out: list[str],
) -> tuple[dict[str, Work], dict[str, float]]:
    """Whole synthesis by each engine, and which share of its time is spent in the networks."""
    runs = {}
    for name, engine in opened.items():
        images = BATCHES * engine.build.unet_batch
        seconds = images * operations.image / (1e12 * works[f"{name} unet"].tflops)
        if seconds > settings.longest_round:
            left_out.append(f"{name} end to end: a round of {images} images would take about {_time(seconds)}")
        else:
            runs[name] = work.Synthesis(engine, sampling, images)
    note(f"end to end: {settings.rounds} rounds of {', '.join(runs) or 'nothing'}")
    timings = interleaved(runs, settings.rounds, pause=PAUSE)
    shares = {
        name: statistics.median(result.network_share for result in run.results[-settings.rounds :])
        for name, run in runs.items()
    }
    return {name: Work(run.images, operations.image, timings[name]) for name, run in runs.items()}, shares


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


def _training(side: int, tried: Tried, settings: BenchSettings, left_out: list[str]) -> Work | None:
    precision = training_precision()
    fastest = highest(precision, tried[precision], {}).tflops
    seconds = training_seconds(settings.arch, side, settings.train_batch, fastest)
    if seconds > settings.longest_round:
        left_out.append(f"training step: a round would take more than {_time(seconds)}")
        return None
    note(f"training step: {settings.rounds} rounds of {settings.arch} at {side}x{side}")
    return training_work(settings.arch, side, settings.train_batch, settings.rounds)


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
