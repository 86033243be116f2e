import errno
import io

import pytest
import torch

from fglfast.base.errors import ExitCode
from fglfast.base.limits import as_limit, unwritable


class Full(io.RawIOBase):
    def writable(self):
        return True

    def write(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_what_pytorch_makes_of_a_full_disk_is_a_full_disk():
    with pytest.raises((OSError, RuntimeError)) as caught:
        torch.save({"a": torch.zeros(10_000)}, Full())
    limit = as_limit(caught.value, "runs/model")
    assert limit.message == "runs/model: cannot be written (No space left on device)"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to"), "out of memory"),
        (OSError(errno.EROFS, "Read-only file system", "/x/y"), "/x/y: cannot be written or read (Read-only"),
        (RuntimeError("basic_ios::clear: iostream error"), "out: cannot be written (no space left)"),
        (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), "out: cannot be"),
    ],
)
def test_limits_are_told(error, words):
    assert words in as_limit(error, "out").message


@pytest.mark.parametrize(
    ("number", "code"),
    [
        *((number, ExitCode.USAGE) for number in (errno.EACCES, errno.EROFS, errno.ENOENT, errno.ENAMETOOLONG)),
        *((number, ExitCode.FAILURE) for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO)),
    ],
)
def test_a_place_is_the_users_choice_and_a_full_disk_is_not(number, code):
    error = OSError(number, "said by the system", "/x/y")
    found = [unwritable(error, "/x/y", "mend it"), as_limit(error)]
    assert {limit.exit_code for limit in found if limit} == {code}


def test_a_full_disk_is_not_blamed_on_what_was_copied():
    error = OSError(errno.ENOSPC, "No space left on device", "source", None, "target")
    assert as_limit(error).message == "target: cannot be written (No space left on device)"


def test_a_bug_is_no_limit():
    bug = TypeError("a bug")
    bug.__context__ = PermissionError(errno.EACCES, "Permission denied", "/optional")
    assert as_limit(bug) is None
    looped = ValueError("a")
    looped.__context__ = KeyError("b")
    looped.__context__.__context__ = looped
    assert as_limit(looped) is None
