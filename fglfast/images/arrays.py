"""Arrays of an npz file: what they announce first, then their bytes."""

import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fglfast.base.limits import check_memory

READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_arrays(path: Path, wanted: Iterable[str]) -> tuple[list[str], dict[str, NDArray[Any]]]:
    """The names of all arrays of an npz file, and those of the wanted arrays that are there; nothing is unpickled.

    Raises:
        ValueError, zipfile.BadZipFile, EOFError: it is no such file, or an array announces more than it holds.
        FglError: they need more memory than is free.
    """
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        chosen = {name: members[name] for name in wanted if name in members}
        needed = 0
        for name, info in chosen.items():
            with archive.open(info) as stream:
                announced = _announced(stream, name)
            if announced > info.file_size:
                raise ValueError(f"{name} announces {announced} bytes and holds {info.file_size}")
            needed += announced
        check_memory(needed, str(path))
        found = {}
        for name, info in chosen.items():
            with archive.open(info) as stream:
                found[name] = np.lib.format.read_array(stream, allow_pickle=False)
    return list(members), found


def _announced(stream: IO[bytes], name: str) -> int:
    """Bytes of the array that a header describes; one of objects has no size, and only unpickling would read it."""
    version = np.lib.format.read_magic(stream)
    if version not in READERS:
        raise ValueError(f"version {version} of npy")
    shape, _, dtype = READERS[version](stream)
    if dtype.hasobject:
        raise ValueError(f"{name} is an array of Python objects, and those are not read")
    return math.prod(shape) * dtype.itemsize
