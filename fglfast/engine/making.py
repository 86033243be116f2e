"""Make an engine: export and sample once a model, compile, hold it to the gate, put it in place. Chooses nothing."""

import gc
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from fglfast.base.console import note
from fglfast.base.errors import BadInputError
from fglfast.base.files import exclusive, lock_of, put_in_place, unfinished_folder
from fglfast.base.limits import is_about
from fglfast.engine import backends
from fglfast.engine.export import export_for
from fglfast.engine.exported import export_folder
from fglfast.engine.finding import Made, Source, is_sound, require_writable, turn, unwritable
from fglfast.engine.manifest import FILE, Key, Manifest, check_files, file_hashes, read_manifest
from fglfast.engine.parity import Errors, measure, require
from fglfast.engine.trajectory import Reference, Trajectory
from fglfast.engine.yardstick import eager_errors, float32_run

OnFailure = Callable[[Key, Exception], None]


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


def make(key: Key, source: Source) -> Made | None:
    """Build the engine of a key; None if another process has built it meanwhile.

    Raises:
        BadInputError: the model cannot be used.
        FglError: as `find_or_make`.
    """
    started = time.monotonic()
    _ = source.shapes  # what cannot be used is refused before anything is written
    with place_for(key, source) as place:
        if place is None:
            return None
        ready = prepared([key], source)
        return finished(compiled(key, source, place, started), source, ready)


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
            if is_sound(folder):
                yield None
                return
        if _sound_or_removed(folder):
            yield None
            return
        note(f"building engine {folder.name} ({key.build.backend}, {key.build.precision})")
        try:
            with unfinished_folder(folder) as place:
                yield place
        except OSError as error:
            if not is_about(error, source.engines):  # a compiler that is not installed, or a want of memory
                raise
            raise unwritable(source.engines, error) from error


def prepared(keys: list[Key], source: Source, on_failure: OnFailure | None = None) -> Ready:
    """All that engines of one model share, before the first of them is compiled: the weights are loaded once for it.

    They are let go before this returns: engines need the memory themselves. `on_failure` is told which of the engines
    cannot be prepared, and why; without it that is raised.

    Raises:
        BadInputError: the model itself cannot be sampled.
    """
    reference = Reference(source.model, source.shapes, source.sampling)
    run, eager = float32_run(reference, keys[0], source.engines), {}
    for key in keys:
        try:
            eager[key.digest()] = eager_errors(reference, run, key, source.engines)
            if backends.find_backend(key.build.backend).needs_export:
                export_for(key, reference, source.engines)
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
    networks = source.load(key, draft.folder, source.shapes)
    parity = measure(networks, ready.run, ready.eager[folder.name], key.build.precision)
    require(parity, f"engine {folder.name} ({key.build.backend}, {key.build.precision})")
    manifest = Manifest(
        key=key,
        model=str(source.model),
        shapes=source.shapes,
        parity=parity,
        reference=ready.run.by,
        fusions=draft.fusions,
        files=file_hashes(draft.folder),
        seconds=round(time.monotonic() - draft.started, 2),
    )
    manifest.save(draft.folder / FILE)  # the last file of an engine
    put_in_place(draft.folder, folder)
    return Made(folder, manifest, networks, cached=False)


def _sound_or_removed(folder: Path) -> bool:
    """Whether an engine is there, for the holder of its lock; one that is damaged is said to be, and removed."""
    if not folder.exists():
        return False
    try:
        check_files(folder, read_manifest(folder))
    except BadInputError as error:
        note(f"rebuilding: {error.message}")
        shutil.rmtree(folder)
        return False
    return True
