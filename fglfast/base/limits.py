"""The machine's limits as errors that a user can act on: memory, room, permission. Knows no stage.

Libraries say them in their own ways: PyTorch's file writer hides what the disk said behind a RuntimeError.
"""

import errno
from collections.abc import Iterator

import psutil

from fglfast.base.errors import FglError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
# PyTorch on a CPU and on a GPU, NVIDIA's libraries, ONNX Runtime, C++, the system, Python.
MEMORY_WORDS = (
    *("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED", "Failed to allocate memory"),
    *("bad_alloc", "bad allocation", "Cannot allocate memory", "MemoryError"),
)
# safetensors, and PyTorch to a stream and to a path.
ROOM_WORDS = ("No space left on device", "File too large", "Disk quota exceeded", "unexpected pos ", "iostream error")


def as_limit(error: BaseException, where: str = "the disk") -> FglError | None:
    """What an error says of the machine; None if it says nothing of it.

    Args:
        error: any, with what it was raised from.
        where: the folder or file at fault, unless the error names one.
    """
    if isinstance(error, OSError) and error.errno in NO_ACCESS:
        hint = "choose a folder that may be written, or mend it"
        return FglError(f"{error.filename or where}: cannot be written or read ({error.strerror})", hint)
    for link in _chain(error):
        if isinstance(link, MemoryError) or any(words in str(link) for words in MEMORY_WORDS):
            hint = "give a smaller --batch-size, or end other programs, and run again; what is finished is kept"
            return FglError("out of memory", hint)
        full = isinstance(link, OSError) and link.errno in NO_ROOM
        if full or any(words in str(link) for words in ROOM_WORDS):
            reason = link.strerror if isinstance(link, OSError) else "no room"
            hint = "free space and run the same command again; what is finished is kept"
            return FglError(f"{getattr(link, 'filename', None) or where}: cannot be written ({reason})", hint)
    return None


def check_memory(needed: int, what: str) -> None:
    """Refuse, before room is made for it, what does not fit into the memory that is free.

    Raises:
        FglError: it does not.
    """
    free = psutil.virtual_memory().available
    if needed > free:
        message = f"{what}: needs {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} are free"
        raise FglError(message, "give less of it, or end other programs")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from, or while handling; cut off where that goes round in circles."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
