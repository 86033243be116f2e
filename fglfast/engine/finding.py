"""Find and open the finished engine of a key. Here is nothing that makes one: no models of PyTorch, no exporters."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fglfast.base import limits
from fglfast.base.console import note
from fglfast.base.errors import BadInputError, FglError
from fglfast.base.files import exclusive
from fglfast.engine import backends
from fglfast.engine.manifest import Key, Manifest, check_files, read_manifest
from fglfast.engine.networks import Networks
from fglfast.generator.shapes import Shapes
from fglfast.sampler.schedule import Sampling


@dataclass(frozen=True)
class Source:
    """What engines of one model and size are made from, and where they go.

    Attributes:
        model: the diffusers directory.
        image_size: side of its images in pixels.
        sampling: what the gate samples by.
        engines: folder that holds engines by key.
    """

    model: Path
    image_size: int
    sampling: Sampling
    engines: Path

    @cached_property
    def shapes(self) -> Shapes:
        """Sizes of latents and text, of a model whose parts go together.

        Raises:
            BadInputError: they do not, or the model cannot be used, or not at this size.
        """
        from fglfast.generator.load import read_shapes  # seconds to import, which a finished engine need not wait for
        from fglfast.generator.text_part import check_text_part

        check_text_part(self.model)
        return read_shapes(self.model, self.image_size)

    def folder(self, key: Key) -> Path:
        """Where an engine lies once it is finished."""
        return self.engines / key.digest()

    def load(self, key: Key, folder: Path, shapes: Shapes) -> Networks:
        """Open what was compiled."""
        return backends.find_backend(key.build.backend).load(key.build, shapes, self.model, folder)


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


def find_or_make(key: Key, source: Source) -> Made:
    """Open the engine of a key, building it first if it is not there.

    Raises:
        BadInputError: the model cannot be used.
        FglError: the parity gate refused, nothing is left behind; or the folder cannot be written.
    """
    if is_sound(source.folder(key)):
        return opened(key, source)
    from fglfast.engine.making import make

    return make(key, source) or opened(key, source)


def opened(key: Key, source: Source) -> Made:
    """An engine that was just found to be sound; it opens where nothing can be written."""
    folder = source.folder(key)
    manifest = read_manifest(folder)
    return Made(folder, manifest, source.load(key, folder, manifest.shapes), cached=True)


def is_sound(folder: Path) -> bool:
    """Whether a sound engine is there.

    No lock is needed, and filelock's shared one would have to write: a folder appears whole, by a rename, and one that
    is being removed lacks a file that its manifest names, or the manifest. Sound ones are never removed.
    """
    with suppress(BadInputError, OSError):
        check_files(folder, read_manifest(folder))
        return True
    return False


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
        FglError: it cannot be made or written; see `limits.unwritable`.
    """
    try:
        engines.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=engines).close()
    except OSError as error:
        raise unwritable(engines, error) from error


def unwritable(engines: Path, error: OSError) -> FglError:
    """That the folder of engines cannot be written."""
    return limits.unwritable(error, engines, "free space, or choose another folder with --engines")
