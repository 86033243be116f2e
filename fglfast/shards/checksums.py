"""A checksum beside every shard, in the format of `sha256sum`.

`cd synth && sha256sum -c checksums/*` checks a data set without this program. A shard's checksum is that of the bytes
that were handed to the disk, taken before they were, and is there before the shard has its name.
"""

import hashlib
import re
from pathlib import Path
from typing import BinaryIO

from fglfast.base.errors import BadInputError
from fglfast.base.files import write_atomic
from fglfast.base.untrusted import read_bytes

FOLDER = "checksums"
LINE = re.compile(r"([0-9a-f]{64})  (\S+)\n", re.ASCII)
MOST = 1 << 10  # bytes of a checksum's file


class Hashing:
    """A stream for `tarfile` to write to: it hashes what it passes on to another, if there is one."""

    def __init__(self, stream: BinaryIO | None = None) -> None:
        self.stream, self.size, self._digest = stream, 0, hashlib.sha256()

    def write(self, content: bytes) -> int:
        """Pass bytes on."""
        self._digest.update(content)
        self.size += len(content)
        return self.stream.write(content) if self.stream else len(content)

    def tell(self) -> int:
        """Bytes so far."""
        return self.size

    def digest(self) -> str:
        """sha256 of the bytes so far, in hex."""
        return self._digest.hexdigest()


def write_checksum(shard: Path, digest: str) -> None:
    """Write down the sha256 that a shard has."""
    path = _path(shard)
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, f"{digest}  {shard.name}\n")


def read_checksum(shard: Path) -> str | None:
    """The sha256 that a shard is to have; None when none was written, as by older versions, or it is damaged itself."""
    try:
        line = LINE.fullmatch(read_bytes(_path(shard), MOST).decode())
    except (OSError, UnicodeDecodeError, BadInputError):
        return None
    return line[1] if line and line[2] == shard.name else None


def _path(shard: Path) -> Path:
    return shard.parent / FOLDER / f"{shard.name}.sha256"
