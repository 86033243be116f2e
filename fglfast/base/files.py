"""Files that are whole or not there: write under a temporary name, sync, rename."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from fglfast.base.errors import BadInputError, FglError, UsageError
from fglfast.base.limits import NO_ROOM
from fglfast.base.wording import differences
from fglfast.base.writable import free_for

PATIENCE = 2.0  # seconds; asking takes a thousandth of that


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that takes its place when the block succeeds.

    The content is on the disk before the rename, the rename before this returns: a kill or a power cut
    leaves the old file or the new one. A killed writer's temporary file is overwritten by the next.

    Raises:
        OSError: the disk refused; it names `path`, which the error of a full disk does not.
    """
    with placing(path) as temporary, temporary.open("wb") as stream:
        yield stream


@contextmanager
def placing(path: Path) -> Iterator[Path]:
    """As `replacing`, for a writer that opens the file itself: it is given the temporary path."""
    temporary = temporary_name(path)
    try:
        yield temporary
        with temporary.open("r+b") as written:  # Windows syncs no file that is open for reading only
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def file_digest(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_bytes(folder: Path) -> int:
    """What all files below a folder hold."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def claim(path: Path, facts: Mapping[str, object], what: str, more: bool = False) -> None:
    """Write down what a folder is used for, and refuse one that is in use for something else.

    Args:
        path: the file that says it.
        facts: what must not change from one call to the next, as JSON.
        what: what the folder would hold otherwise, in words for the message.
        more: whether a call may say facts that others did not, and leave out those that they did.

    Raises:
        BadInputError: the file holds other facts, which the message names, or cannot be read.
    """
    check_claim(path, facts, what, more=more)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps({**(_claimed(path) if more else {}), **facts}, indent=2) + "\n")


def check_claim(
    path: Path, facts: Mapping[str, object], what: str, later: Collection[str] = (), more: bool = False
) -> None:
    """As `claim`, without writing: to be asked before work that would be in vain.

    Facts that are known `later` are not compared.
    """
    if not path.exists():
        return
    there = {key: value for key, value in _claimed(path).items() if key not in later}
    here = json.loads(json.dumps(facts))
    if more:
        there, here = ({key: said[key] for key in facts if key in there} for said in (there, here))
    if differing := differences(there, here):
        raise BadInputError(f"{path.parent}: holds {what} ({differing})", "give another --out")


def _claimed(path: Path) -> dict[str, Any]:
    """What a file says that its folder is used for; nothing where there is none."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError) as error:
        raise BadInputError(f"{path}: cannot be read ({error})", "give another --out") from error


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a whole file, UTF-8 if it is text, as `replacing` does."""
    with replacing(path) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


def write_new(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all, and never in the place of another.

    Raises:
        OSError: a file is there, or it cannot be written.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # made with mode 0600
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if os.name == "nt":
            os.rename(name, path)  # noqa: PTH104 (refuses to take the place of a file there, and only there)
        else:
            os.link(name, path)  # refuses likewise, which a rename would not
    finally:
        Path(name).unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def finished_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of `folder` when the block succeeds; for one writer at a time."""
    with unfinished_folder(folder) as temporary:
        yield temporary
        put_in_place(temporary, folder)


@contextmanager
def unfinished_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`, gone afterwards unless put in place; for one writer at a time."""
    for stale in folder.parent.glob(f".{escape(folder.name)}.building-*"):
        shutil.rmtree(stale, ignore_errors=True)  # a killed writer's
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.building-", dir=folder.parent))
    try:
        yield temporary
    except OSError as error:
        _name_finished(error, temporary, folder)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _name_finished(error: OSError, temporary: Path, folder: Path) -> None:
    """Let an error name what would have been there, not what is hidden and temporary; a full disk names nothing."""
    if error.filename is None and error.errno in NO_ROOM:
        error.filename = str(folder)
    for key in ("filename", "filename2"):
        path = getattr(error, key)
        if isinstance(path, str | Path) and Path(path).is_relative_to(temporary):
            setattr(error, key, str(folder / Path(path).relative_to(temporary)))


def put_in_place(temporary: Path, folder: Path) -> None:
    """Let an unfinished folder take the place of `folder`: it is finished."""
    temporary.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)


@contextmanager
def exclusive(path: Path, wait: bool | float = True) -> Iterator[bool]:
    """Hold a lock file, so that processes at the same work take turns; the lock of a killed one is released.

    Yields whether the lock is held: always, unless another process holds it and `wait` is false, or its seconds are
    over.

    Raises:
        FglError: the file system has no locks.
    """
    lock = FileLock(path, timeout=-1 if wait is True else float(wait))
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FglError(f"{path}: cannot be locked ({reason})", "use a file system that has locks") from error
    try:
        yield True
    finally:
        lock.release()


@contextmanager
def sole(folder: Path, *marks: str) -> Iterator[None]:
    """Keep a second run out of a folder, which is made if it is missing; the lock of a killed run is released.

    Raises:
        UsageError: another run is at work there, or as `free_for`.
    """
    free_for(folder, *marks)
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / ".lock", wait=False) as free:
        if not free:
            raise UsageError(f"{folder}: another run is at work there", "wait for it, or choose another --out")
        yield


def is_held(path: Path) -> bool:
    """Whether another process holds a lock file. Several that ask at once wait for each other, not for a holder."""
    try:
        with FileLock(path, timeout=PATIENCE):
            return False
    except Timeout:
        return True


def temporary_name(path: Path) -> Path:
    """Where a file is written before it is complete: hidden, and never read."""
    return path.with_name(f".{path.name}.tmp")


def fill_once(folder: Path, make: Callable[[Path], None]) -> None:
    """Have `make` fill a folder, unless it is there; of several processes one does it, the others wait."""
    with exclusive(lock_of(folder)):
        if not folder.exists():
            with finished_folder(folder) as unfinished:
                make(unfinished)


def lock_of(path: Path) -> Path:
    """The lock file of a file or folder: hidden, and beside it."""
    return path.with_name(f".{path.name}.lock")


def remove(path: Path) -> None:
    """Remove a file, if it is there, for good: what no longer fits it can be written then, whatever is killed when."""
    if path.exists():
        path.unlink()
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut; Windows, which opens no folder, does so by itself."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
