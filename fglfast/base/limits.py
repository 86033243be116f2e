"""The machine's limits as errors that a user can act on: memory, disk space, permission.

Libraries report them in their own ways: PyTorch's file writer hides what the disk said behind a RuntimeError.
"""

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from fglfast.base.errors import FglError, UsageError
from fglfast.base.wording import first_line

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
WRONG_PLACE = (*NO_ACCESS, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP)
# PyTorch on a CPU and on a GPU, NVIDIA's libraries, ONNX Runtime, C++, the system, Python.
MEMORY_WORDS = (
    *("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED", "Failed to allocate memory"),
    *("bad_alloc", "bad allocation", "Cannot allocate memory", "MemoryError"),
)
# safetensors, and PyTorch to a stream and to a path.
ROOM_WORDS = ("No space left on device", "File too large", "Disk quota exceeded", "unexpected pos ", "iostream error")


def as_limit(error: BaseException, where: str = "the disk") -> FglError | None:
    """An error that reports a limit of the machine, as one that a user can act on; None for any other.

    Those that it was raised from are looked at too. `where` is named unless the error names a file.
    """
    if isinstance(error, OSError) and error.errno in NO_ACCESS:
        hint = "choose a folder that you may read and write, or change its permissions"
        return UsageError(f"{error.filename or where}: cannot be written or read ({error.strerror})", hint)
    for link in _chain(error):
        if isinstance(link, MemoryError) or any(words in str(link) for words in MEMORY_WORDS):
            hint = "end other programs, or give a smaller --batch-size if the command has one; what is finished is kept"
            return FglError("out of memory", hint)
        full = isinstance(link, OSError) and link.errno in NO_ROOM
        if full or any(words in str(link) for words in ROOM_WORDS):
            reason = link.strerror if isinstance(link, OSError) else "no space left"
            hint = "free disk space and run the same command again; what is finished is kept"
            return FglError(f"{_written(link) or where}: cannot be written ({reason})", hint)
    return None


def unwritable(error: OSError, place: str | Path, hint: str) -> FglError:
    """That something cannot be written: a failure of the machine, but wrong usage where the place is to blame."""
    kind = UsageError if error.errno in WRONG_PLACE else FglError
    return kind(f"{place}: cannot be written ({error.strerror or first_line(error)})", hint)


def _written(error: BaseException) -> Any:
    """The file that could not be written, where an error names it: of a copy that is the second."""
    return getattr(error, "filename2", None) or getattr(error, "filename", None)


def is_about(error: OSError, folder: Path) -> bool:
    """Whether an error of the system is of what lies in a folder, or of a full disk whose place it does not name."""
    named = [Path(str(name)) for name in (error.filename, error.filename2) if isinstance(name, str | Path)]
    if not named:
        return error.errno in NO_ROOM
    return any(path.absolute().is_relative_to(folder.absolute()) for path in named)


def check_memory(needed: int, what: str) -> None:
    """Refuse what does not fit into free memory, before the memory is asked for.

    Raises:
        FglError: it does not fit; `needed` is in bytes.
    """
    free = psutil.virtual_memory().available
    if needed > free:
        message = f"{what}: needs {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} are free"
        raise FglError(message, "give fewer or smaller ones, or end other programs")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, the one that it was raised from or while handling, and so on, each once."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
