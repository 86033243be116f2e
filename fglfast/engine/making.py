"""Make an engine: export and sample once a model, compile, hold it to the gate, put it in place. Chooses nothing."""

import gc
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from fglfast.base.console import note
from fglfast.base.errors import BadInputError, FglError
from fglfast.base.files import exclusive, lock_of, put_in_place, unfinished_folder
from fglfast.base.wording import first_line
from fglfast.engine import backends
from fglfast.engine.exports import export_folder, export_for
from fglfast.engine.manifest import Key, Manifest, check_files, file_hashes, read_manifest
from fglfast.engine.networks import Networks
from fglfast.engine.parity import Errors, measure, require
from fglfast.engine.trajectory import Reference, Trajectory
from fglfast.engine.yardstick import eager_errors, float32_run
from fglfast.generator.load import Shapes
from fglfast.sampler.schedule import Sampling

OnFailure = Callable[[Key, Exception], None]


@dataclass(frozen=True)
class Source:
    """What engines of one model and size are made from, and where they go.

    Attributes:
        model: the diffusers directory.
        shapes: sizes of latents and text.
        sampling: what the gate samples by.
        engines: folder that holds engines by key.
    """

    model: Path
    shapes: Shapes
    sampling: Sampling
    engines: Path

    def folder(self, key: Key) -> Path:
        """Where an engine lies once it is finished."""
        return self.engines / key.digest()

    def load(self, key: Key, folder: Path) -> Networks:
        """Open what was compiled."""
        return backends.find_backend(key.build.backend).load(key.build, self.shapes, self.model, folder)


@dataclass(frozen=True)
class Made:
    """An engine that passed the gate, open.

    Attributes:
        folder: where it lies.
        manifest: what it was built from and how equal it is.
        networks: its networks.
        cached: whether it was found rather than built.
    """

    folder: Path
    manifest: Manifest
    networks: Networks
    cached: bool


@dataclass(frozen=True)
class Ready:
    """What the gate needs to know, once the float32 model is gone.

    Attributes:
        run: the float32 model's.
        eager: what eager PyTorch loses of it in each engine's precision, by the key's digest.
    """

    run: Trajectory
    eager: dict[str, Errors]


@dataclass(frozen=True)
class Draft:
    """An engine that is compiled and has not seen the gate.

    Attributes:
        key: what it was built from.
        folder: where it lies for now.
        fusions: fused operators of each network's graph.
        started: the clock's seconds when the work began.
    """

    key: Key
    folder: Path
    fusions: dict[str, dict[str, int]]
    started: float


def find_or_make(key: Key, source: Source) -> Made:
    """Open the engine of a key, building it first if it is not there.

    Raises:
        FglError: the parity gate refused, nothing is left behind; or the folder cannot be written.
    """
    if made := found(key, source):
        return made
    started = time.monotonic()
    with place_for(key, source) as place:
        if place is not None:
            ready = prepared([key], source)
            return finished(compiled(key, source, place, started), source, ready)
    return opened(key, source)


def found(key: Key, source: Source) -> Made | None:
    """A sound engine; it opens where nothing can be written."""
    folder = source.folder(key)
    manifest = _sound(folder)
    return Made(folder, manifest, source.load(key, folder), cached=True) if manifest else None


def opened(key: Key, source: Source) -> Made:
    """An engine that was just found to be there."""
    folder = source.folder(key)
    return Made(folder, read_manifest(folder), source.load(key, folder), cached=True)


@contextmanager
def place_for(key: Key, source: Source) -> Iterator[Path | None]:
    """A folder to build an engine in, and the turn to do so; None if another process did while this one waited.

    All who waited look at what was built side by side, not in turn.

    Raises:
        FglError: the folder of engines cannot be written, or no more of it.
    """
    folder = source.folder(key)
    require_writable(source.engines)
    with ExitStack() as stack:
        while not stack.enter_context(exclusive(lock_of(folder), wait=False)):
            with turn(lock_of(folder), f"engine {folder.name}"):
                pass
            if _sound(folder):
                yield None
                return
        if _is_sound(folder):
            yield None
            return
        note(f"building engine {folder.name} ({key.build.backend}, {key.build.precision})")
        try:
            with unfinished_folder(folder) as place:
                yield place
        except OSError as error:
            raise _unwritable(source.engines, error) from error


def prepared(keys: list[Key], source: Source, on_failure: OnFailure | None = None) -> Ready:
    """All that engines of one model share, before the first of them is compiled: the weights are loaded once for it.

    They are let go before this returns: engines need the memory themselves.

    Args:
        keys: of the engines.
        source: the model.
        on_failure: told which of them cannot be prepared, and why; without it that is raised.

    Raises:
        BadInputError: the model itself cannot be sampled.
    """
    reference = Reference(source.model, source.shapes, source.sampling)
    run, eager = float32_run(reference, keys[0], source.engines), {}
    for key in keys:
        try:
            eager[key.digest()] = eager_errors(reference, run, key, source.engines)
            if backends.find_backend(key.build.backend).needs_export:
                export_for(key, reference, export_folder(key, source.engines))
        except Exception as error:  # each exporter has errors of its own
            if on_failure is None:
                raise
            on_failure(key, error)
    del reference
    let_go()
    return Ready(run, eager)


def let_go() -> None:
    """Free what nothing holds any more; other runtimes cannot use what PyTorch keeps of the GPU's memory."""
    gc.collect()
    torch.cuda.empty_cache()


def compiled(key: Key, source: Source, place: Path, started: float) -> Draft:
    """Compile an engine into a folder, from what `prepared` left."""
    backend = backends.find_backend(key.build.backend)
    fusions = backend.compile(key.build, source.shapes, export_folder(key, source.engines), place)
    return Draft(key, place, fusions or {}, started)


def finished(draft: Draft, source: Source, ready: Ready) -> Made:
    """Hold an engine to the gate, and put it in its place, still open.

    Raises:
        FglError: the gate refused.
    """
    key, folder = draft.key, source.folder(draft.key)
    networks = source.load(key, draft.folder)
    parity = measure(networks, ready.run, ready.eager[folder.name], key.build.precision)
    require(parity, f"engine {folder.name} ({key.build.backend}, {key.build.precision})")
    manifest = Manifest(
        key=key,
        model=str(source.model),
        parity=parity,
        reference=ready.run.by,
        fusions=draft.fusions,
        files=file_hashes(draft.folder),
        seconds=round(time.monotonic() - draft.started, 2),
    )
    manifest.save(draft.folder)
    put_in_place(draft.folder, folder)
    return Made(folder, manifest, networks, cached=False)


@contextmanager
def turn(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock file; who has to wait for it is told why."""
    with exclusive(lock, wait=False) as free:
        if free:
            yield
            return
    note(f"waiting for {what}: another process builds or checks it")
    with exclusive(lock):
        yield


def require_writable(engines: Path) -> None:
    """Make the folder of engines.

    Raises:
        FglError: it cannot be made or written.
    """
    try:
        engines.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=engines).close()
    except OSError as error:
        raise _unwritable(engines, error) from error


def _unwritable(engines: Path, error: OSError) -> FglError:
    reason = error.strerror or first_line(error)
    return FglError(f"{engines}: cannot be written ({reason})", "free space, or choose another folder with --engines")


def _sound(folder: Path) -> Manifest | None:
    """The manifest of a sound engine, None if there is no such engine.

    No lock is needed, and filelock's shared one would have to write: a folder appears whole, by a rename, and one that
    is being removed lacks a file that its manifest names, or the manifest. Sound ones are never removed.
    """
    with suppress(BadInputError, OSError):
        return _checked(folder)
    return None


def _is_sound(folder: Path) -> bool:
    """Whether an engine is there, for the holder of its lock; one that is damaged is said to be, and removed."""
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
