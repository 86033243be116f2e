"""Build, cache and open engines. Export once a model, compile once a key, keep only what passed the gate."""

import gc
import hashlib
import json
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fglfast.base.console import note
from fglfast.base.errors import BadInputError, FglError
from fglfast.base.files import exclusive, finished_folder, write_atomic
from fglfast.base.timing import interleaved
from fglfast.base.untrusted import read_object
from fglfast.base.wording import first_line
from fglfast.engine import backends
from fglfast.engine.exports import export_folder, export_for
from fglfast.engine.manifest import Key, Manifest, check_files, device_name, file_hashes, read_manifest
from fglfast.engine.networks import Networks, by_time
from fglfast.engine.parity import BOUNDS, PROMPTS, STEPS, measure, require
from fglfast.engine.passes import unet_pass
from fglfast.engine.recipe import Recipe
from fglfast.engine.trajectory import Reference, Trajectory
from fglfast.generator.blocks import Blocks, load_blocks
from fglfast.generator.load import Shapes, read_shapes, weights_fingerprint
from fglfast.sampler.schedule import Sampling, Schedule

AUTO_ROUNDS = 3
MOST_TIMES = 1 << 16  # bytes of a file of measured times


@dataclass(frozen=True)
class Engine:
    """A compiled engine, open and checked.

    Attributes:
        folder: where it lies; the folder's name is the key.
        manifest: what it was built from and how equal it is.
        shapes: sizes of latents and text.
        networks: its three networks.
        model: the diffusers directory it came from.
        cached: whether it was found rather than built.
    """

    folder: Path
    manifest: Manifest
    shapes: Shapes
    networks: Networks
    model: Path
    cached: bool

    @property
    def key(self) -> str:
        """The engine's name."""
        return self.manifest.key.digest()


def build_engine(recipe: Recipe, model: Path, engines: Path) -> Engine:
    """Open the engine of a recipe, building it first if it is not there.

    Args:
        recipe: what to build; with backend "auto" every backend that `chosen` names is built and measured, the
            fastest opened. Its sampling is what the gate looks at; an engine that is there serves any other.
        model: the diffusers directory.
        engines: folder that holds engines by key.

    Raises:
        MissingExtraError: the backend is not installed.
        UsageError: it does not compute at that precision, or the solver does not fit the model.
        BadInputError: the model is of a kind that cannot be used, or the solver draws noise.
        FglError: the parity gate refused; nothing is left behind.
    """
    blocks = load_blocks(model)
    first, *later = blocks.folders(model)
    engine = _build_block(recipe, first, engines)
    if not later:
        return engine
    same = recipe.model_copy(update={"backend": engine.manifest.key.build.backend})
    return _joined([engine, *(_build_block(same, folder, engines) for folder in later)], blocks)


def _joined(engines: list[Engine], blocks: Blocks) -> Engine:
    """The engines of the blocks of a model as one: in the place of the first, under a key of its own."""
    first, widths = engines[0], [engine.shapes.projected_width for engine in engines]
    weights = blocks.model_dump_json() + "".join(engine.manifest.key.weights for engine in engines)
    key = first.manifest.key.model_copy(update={"weights": hashlib.sha256(weights.encode()).hexdigest()})
    return replace(
        first,
        manifest=first.manifest.model_copy(update={"key": key}),
        shapes=replace(first.shapes, projected_width=sum(widths)),
        networks=by_time([engine.networks for engine in engines], widths, blocks.boundaries),
        cached=all(engine.cached for engine in engines),
    )


def _build_block(recipe: Recipe, model: Path, engines: Path) -> Engine:
    names = backends.chosen(recipe.backend, recipe.precision)
    Schedule.of_model(model, recipe.sampling)  # refused before anything is exported
    weights = weights_fingerprint(model)
    keys = [_key(recipe, name, weights) for name in names]
    if recipe.backend == "auto":
        return _build_auto(keys, model, engines, recipe.sampling)
    return _build_one(keys[0], model, engines, recipe.sampling)


def seconds_per_pass(engine: Engine, rounds: int = AUTO_ROUNDS) -> float:
    """Median seconds of one UNet pass at the engine's own batch, after one to warm up."""
    run = unet_pass(engine.networks, engine.shapes, engine.manifest.key.build.unet_batch)
    return interleaved({"pass": run}, rounds)["pass"].seconds


def _build_auto(keys: list[Key], model: Path, engines: Path, sampling: Sampling) -> Engine:
    """The fastest installed backend, measured once and remembered: a resumed run draws with the same engine.

    Ranks that start together take turns: measuring side by side, they could choose differently.
    """
    by_name = {key.build.backend: key for key in keys}
    cached = {name: (engines / key.digest()).exists() for name, key in by_name.items()}
    digest = hashlib.sha256("".join(key.digest() for key in keys).encode()).hexdigest()[:16]
    path = engines / f"auto-{digest}.json"
    if not path.exists():
        _writable(engines)
        with _turn(path.with_name(f".{path.name}.lock"), "the choice of a backend"):
            if not path.exists():
                write_atomic(path, json.dumps(_measured(by_name, model, engines, sampling)) + "\n")
    seconds = _remembered(path, set(by_name))
    ranked = sorted(seconds, key=seconds.__getitem__)
    told, rows = ", ".join(f"{name} {1000 * seconds[name]:.0f} ms" for name in ranked), keys[0].build.unet_batch
    note(f"backend {ranked[0]}: fastest of those installed (one UNet pass of {rows} rows: {told})")
    engine = _build_one(by_name[ranked[0]], model, engines, sampling)
    return replace(engine, cached=cached[ranked[0]])


def _measured(keys: dict[str, Key], model: Path, engines: Path, sampling: Sampling) -> dict[str, float]:
    """Seconds of a pass of each backend that works here, one engine open at a time.

    Raises:
        Exception: what the first backend raised, where none works.
    """
    seconds: dict[str, float] = {}
    failed: list[Exception] = []
    for name, key in keys.items():
        try:
            seconds[name] = seconds_per_pass(_build_one(key, model, engines, sampling))
        except Exception as error:  # each runtime has errors of its own, and the next may do
            failed.append(error.with_traceback(None))  # which would hold the networks
            reason = first_line(error)
            note(f"backend {name} is left out: {reason}")
        gc.collect()
        torch.cuda.empty_cache()
    if not seconds:
        raise failed[0]
    return seconds


def _remembered(path: Path, names: set[str]) -> dict[str, float]:
    """The times that were measured before, of each backend."""
    hint = "delete it, and the backends are measured again"
    seconds = read_object(path, MOST_TIMES, hint)
    times = all(isinstance(time, float) and 0 < time < math.inf for time in seconds.values())
    if not seconds or not seconds.keys() <= names or not times:
        raise BadInputError(f"{path}: not the times of {', '.join(sorted(names))}", hint)
    return seconds


def _key(recipe: Recipe, backend_name: str, weights: str) -> Key:
    backend = backends.find_backend(backend_name)
    precision = backends.resolved(backend_name, recipe.precision)
    versions = backends.versions(backend, precision)
    if backend.needs_export:
        versions["export"] = str(backend.route(precision))
    return Key(weights=weights, build=recipe.build(backend_name, precision), versions=versions, device=device_name())


def _build_one(key: Key, model: Path, engines: Path, sampling: Sampling) -> Engine:
    folder, shapes = engines / key.digest(), read_shapes(model, key.build.image_size)
    backend = backends.find_backend(key.build.backend)
    manifest, built = _finished(folder), False
    if manifest is None:
        built = _build_in_turn(key, model, shapes, engines, sampling)
        manifest = read_manifest(folder)
    return Engine(folder, manifest, shapes, backend.load(key.build, shapes, model, folder), model, cached=not built)


def _finished(folder: Path) -> Manifest | None:
    """The manifest of a sound engine, found without a lock: it opens where nothing can be written."""
    with suppress(BadInputError, OSError):
        return _checked(folder)
    return None


def _build_in_turn(key: Key, model: Path, shapes: Shapes, engines: Path, sampling: Sampling) -> bool:
    """Build an engine, unless another process did while this one waited for it; returns whether it did not."""
    folder, started = engines / key.digest(), time.monotonic()
    _writable(engines)
    with _turn(engines / f".{folder.name}.lock", f"engine {folder.name}"):
        if _is_sound(folder):
            return False
        note(f"building engine {folder.name} ({key.build.backend}, {key.build.precision})")
        try:
            run = _prepared(key, Reference(model, shapes, sampling), engines)
            torch.cuda.empty_cache()  # other runtimes cannot use what PyTorch keeps
            _compile(key, model, shapes, run, folder, started)
        except OSError as error:
            raise _unwritable(engines, error) from error
    return True


@contextmanager
def _turn(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock file; who has to wait for it is told why."""
    with exclusive(lock, wait=False) as free:
        if free:
            yield
            return
    note(f"waiting for {what}: another process builds or checks it")
    with exclusive(lock):
        yield


def _is_sound(folder: Path) -> bool:
    """Whether an engine is there; one that is damaged is said to be, and removed."""
    if not folder.exists():
        return False
    try:
        _checked(folder)
    except BadInputError as error:
        note(f"rebuilding: {error.message}")
        shutil.rmtree(folder)
        return False
    return True


def _checked(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    return manifest


def _prepared(key: Key, reference: Reference, engines: Path) -> Trajectory:
    """Export what the backend reads, and sample what the gate compares with: the weights are loaded once for both.

    They are let go before the engine is compiled, which needs the memory itself.
    """
    if backends.find_backend(key.build.backend).needs_export:
        export_for(key, reference, export_folder(key, engines))
    try:
        return reference.trajectory(PROMPTS, STEPS, 0, reference_device())
    except torch.OutOfMemoryError:
        note("the gate's float32 model does not fit into the GPU's memory: it runs on the CPU, which takes longer")
    return reference.trajectory(PROMPTS, STEPS, 0)


def _compile(key: Key, model: Path, shapes: Shapes, run: Trajectory, folder: Path, started: float) -> None:
    """Compile an engine, and keep it if it passes the gate."""
    backend = backends.find_backend(key.build.backend)
    with finished_folder(folder) as temporary:
        fusions = backend.compile(key.build, shapes, export_folder(key, folder.parent), temporary) or {}
        networks = backend.load(key.build, shapes, model, temporary)
        parity = measure(networks, run, BOUNDS[key.build.precision])
        require(parity, f"engine {folder.name} ({key.build.backend})")
        Manifest(
            key=key,
            model=str(model),
            parity=parity,
            reference=run.by,
            fusions=fusions,
            files=file_hashes(temporary),
            seconds=round(time.monotonic() - started, 2),
        ).save(temporary)


def reference_device() -> str:
    """Where the gate's float32 model runs."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _writable(engines: Path) -> None:
    try:
        engines.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=engines).close()
    except OSError as error:
        raise _unwritable(engines, error) from error


def _unwritable(engines: Path, error: OSError) -> FglError:
    reason = error.strerror or str(error).splitlines()[0]
    return FglError(f"{engines}: cannot be written ({reason})", "free space, or choose another folder with --engines")
