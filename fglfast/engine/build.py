"""Build, cache and open engines. Export once a model, compile once a key, keep only what passed the gate."""

import hashlib
import json
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from fglfast.base.console import note
from fglfast.base.errors import BadInputError, FglError
from fglfast.base.files import exclusive, finished_folder, write_atomic
from fglfast.base.untrusted import read_object
from fglfast.engine import backends
from fglfast.engine.backends import Build
from fglfast.engine.export import UNET, example_inputs, export
from fglfast.engine.manifest import Key, Manifest, check_files, device_name, file_hashes, read_manifest
from fglfast.engine.networks import Networks
from fglfast.engine.parity import BOUNDS, Parity, measure, require
from fglfast.engine.quantize import save_calibration
from fglfast.engine.recipe import Recipe
from fglfast.generator.load import Shapes, load_generator, read_shapes, weights_fingerprint

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
        return self.folder.name


def build_engine(recipe: Recipe, model: Path, engines: Path) -> Engine:
    """Open the engine of a recipe, building it first if it is not there.

    Args:
        recipe: what to build; with backend "auto" every backend that `chosen` names is built and measured, the
            fastest opened.
        model: the diffusers directory.
        engines: folder that holds engines by key.

    Raises:
        MissingExtraError: the backend is not installed.
        UsageError: it does not compute at that precision.
        FglError: the parity gate refused; nothing is left behind.
    """
    names = backends.chosen(recipe.backend, recipe.precision)
    weights = weights_fingerprint(model)
    keys = [_key(recipe, name, weights) for name in names]
    return _build_auto(keys, model, engines) if recipe.backend == "auto" else _build_one(keys[0], model, engines)


def seconds_per_pass(engine: Engine, rounds: int = AUTO_ROUNDS) -> float:
    """Median seconds of one UNet pass at the engine's own batch, after one to warm up."""
    inputs = tuple(example_inputs(engine.shapes, engine.manifest.key.build.unet_batch)[UNET].values())
    engine.networks.denoise(*inputs)
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        engine.networks.denoise(*inputs)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _build_auto(keys: list[Key], model: Path, engines: Path) -> Engine:
    """The fastest installed backend, measured once and remembered: a resumed run draws with the same engine.

    Ranks that start together take turns: measuring side by side, they could choose differently.
    """
    by_name = {key.build.backend: key for key in keys}
    digest = hashlib.sha256("".join(key.digest() for key in keys).encode()).hexdigest()[:16]
    path = engines / f"auto-{digest}.json"
    built: dict[str, Engine] = {}
    _writable(engines)
    with _turn(path.with_name(f".{path.name}.lock"), "the choice of a backend"):
        if path.exists():
            seconds = _remembered(path, set(by_name))
        else:
            built = {name: _build_one(key, model, engines) for name, key in by_name.items()}
            seconds = {name: seconds_per_pass(engine) for name, engine in built.items()}
            write_atomic(path, json.dumps(seconds) + "\n")
    ranked = sorted(seconds, key=seconds.__getitem__)
    told, rows = ", ".join(f"{name} {1000 * seconds[name]:.0f} ms" for name in ranked), keys[0].build.unet_batch
    note(f"backend {ranked[0]}: fastest of those installed (one UNet pass of {rows} rows: {told})")
    return built.get(ranked[0]) or _build_one(by_name[ranked[0]], model, engines)


def _remembered(path: Path, names: set[str]) -> dict[str, float]:
    """The times that were measured before, of each backend."""
    hint = "delete it, and the backends are measured again"
    seconds = read_object(path, MOST_TIMES, hint)
    if seconds.keys() != names or not all(isinstance(time, float) and 0 < time < math.inf for time in seconds.values()):
        raise BadInputError(f"{path}: not the times of {', '.join(sorted(names))}", hint)
    return seconds


def _key(recipe: Recipe, backend_name: str, weights: str) -> Key:
    build = Build(backend=backend_name, **recipe.model_dump(include=set(Build.model_fields) - {"backend"}))
    backend = backends.find_backend(backend_name)
    versions = backends.versions(backend, recipe.precision)
    if backend.needs_onnx:
        versions["export"] = str(backend.route(recipe.precision))
    return Key(weights=weights, build=build, versions=versions, device=device_name())


def _build_one(key: Key, model: Path, engines: Path) -> Engine:
    backend = backends.find_backend(key.build.backend)
    folder, shapes = engines / key.digest(), read_shapes(model, key.build.image_size)
    onnx = export_folder(key, engines)
    _writable(engines)
    with _turn(engines / f".{folder.name}.lock", f"engine {folder.name}"):
        manifest = _cached(folder)
        if manifest is None:
            try:
                if backend.needs_onnx:
                    _export(key, model, shapes, onnx)
                _compile(key, model, shapes, onnx, folder)
            except OSError as error:
                raise _unwritable(engines, error) from error
    built = manifest is None
    manifest = manifest or read_manifest(folder)
    return Engine(folder, manifest, shapes, backend.load(key.build, shapes, model, folder), model, cached=not built)


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


def _cached(folder: Path) -> Manifest | None:
    """The manifest of a sound engine; one that is damaged is said to be, and removed."""
    if not folder.exists():
        return None
    try:
        manifest = read_manifest(folder)
        check_files(folder, manifest)
    except BadInputError as error:
        note(f"rebuilding: {error.message}")
        shutil.rmtree(folder)
        return None
    return manifest


def export_folder(key: Key, engines: Path) -> Path:
    """Where a model's ONNX files lie: named by that of the key which they depend on."""
    depends = ("torch", "diffusers", "transformers", "onnx", "onnxscript", "export")
    versions = {name: key.versions[name] for name in depends if name in key.versions}
    size = key.build.image_size
    plain = Build(backend="onnx", precision="float32", image_size=size, unet_batch=0, vae_batch=0)
    return engines / f"onnx-{Key(weights=key.weights, build=plain, versions=versions, device='any').digest()}"


def _export(key: Key, model: Path, shapes: Shapes, onnx: Path) -> None:
    with exclusive(onnx.with_name(f".{onnx.name}.lock")):
        if not onnx.exists():
            route = backends.find_backend(key.build.backend).route(key.build.precision)
            note(f"exporting {model.name} to ONNX ({route})")
            with finished_folder(onnx) as temporary:
                export(load_generator(model), shapes, temporary, route)
        if key.build.precision == "int8":
            save_calibration(load_generator(model), model, shapes, onnx)


def _compile(key: Key, model: Path, shapes: Shapes, onnx: Path, folder: Path) -> None:
    started = time.monotonic()
    name = key.build.backend
    backend = backends.find_backend(name)
    note(f"building engine {folder.name} ({name}, {key.build.precision})")
    with finished_folder(folder) as temporary:
        fusions = backend.compile(key.build, shapes, onnx, temporary) or {}
        networks = backend.load(key.build, shapes, model, temporary)
        parity = _parity(networks, model, shapes, key.build.precision)
        require(parity, f"engine {folder.name} ({name})")
        Manifest(
            key=key,
            model=str(model),
            parity=parity,
            fusions=fusions,
            files=file_hashes(temporary),
            seconds=round(time.monotonic() - started, 2),
        ).save(temporary)


def _parity(networks: Networks, model: Path, shapes: Shapes, precision: str) -> Parity:
    """The gate, against a reference on the GPU if there is one and it has room for both."""
    try:
        return measure(networks, load_generator(model, reference_device()), model, shapes, BOUNDS[precision])
    except torch.OutOfMemoryError:
        note("the gate's float32 model does not fit into the GPU's memory: it runs on the CPU, which takes longer")
        return measure(networks, load_generator(model), model, shapes, BOUNDS[precision])


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
