"""Tars of plain files, by their headers alone.

`tarfile` follows what a header says: it makes room for announced sizes before it reads, takes names and sizes from
extended headers, and with a negative size goes round in circles (CVE-2025-8194). Here a header is one block of a plain
file whose bytes are there, and any other is refused.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

PREFIX = slice(345, 500)  # of a header: what stands before a name of more than 100 bytes


@dataclass(frozen=True)
class TarMember:
    """A plain file: its name, where its first byte lies, how many there are."""

    name: str
    offset: int
    size: int


def members(stream: BinaryIO) -> Iterator[TarMember]:
    """The files of a tar, in order; between two, the stream may be read anywhere.

    Raises:
        tarfile.ReadError: something else is in it, or it has no end.
    """
    end, place = stream.seek(0, 2), 0
    while True:
        stream.seek(place)
        block = stream.read(tarfile.BLOCKSIZE)
        if block == bytes(tarfile.BLOCKSIZE):
            return
        try:
            header = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise tarfile.ReadError(f"no header at byte {place}") from error
        place += tarfile.BLOCKSIZE
        if any(block[PREFIX]):
            raise tarfile.ReadError(f"{header.name!r} has a second name")
        if header.type != tarfile.REGTYPE:
            raise tarfile.ReadError(f"{header.name!r} is no plain file")
        if not 0 <= header.size <= end - place:
            raise tarfile.ReadError(f"{header.name!r} announces {header.size} bytes, {end - place} are left")
        yield TarMember(header.name, place, header.size)
        place += -(-header.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def content(stream: BinaryIO, member: TarMember) -> bytes:
    """The bytes of a file; check its size first."""
    stream.seek(member.offset)
    return stream.read(member.size)
