"""Where every image of a data set lies, and the images as tensors.

Nothing is unpacked: the headers of the tars are read once, the images are then read at their offsets.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fglfast.base.errors import BadInputError, IncompleteError
from fglfast.base.folders import leads_out, numbered
from fglfast.base.machine import cores
from fglfast.base.ranks import ranks_here
from fglfast.shards.description import Description
from fglfast.shards.tar import UNDECODABLE, check_place, decode_image, read_entries, shard_name

RESUME_HINT = "synthesize is not finished: run it again, it goes on where it stopped."

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Index:
    """Where every image lies.

    Attributes:
        paths: the shards, in order.
        shards: [N] which shard.
        offsets: [N] first byte of the encoded image in it.
        sizes: [N] its length in bytes.
        labels: [N] its class.
    """

    paths: tuple[Path, ...]
    shards: Rows
    offsets: Rows
    sizes: Rows
    labels: Rows

    def __len__(self) -> int:
        return len(self.labels)


def read_index(folder: Path, description: Description) -> Index:
    """Read the headers of all shards.

    Raises:
        IncompleteError: shards are missing.
        BadInputError: a shard is damaged, holds what it must not or lies under another's name, or a label is out of
            range.
    """
    paths = _shard_paths(folder, description.shards)
    rows: list[tuple[int, int, int, int]] = []
    for number, path in enumerate(paths):
        entries = list(read_entries(path))
        if description.by_place:
            check_place(path, entries, len(rows))
        rows += [(number, entry.image.offset, entry.image.size, entry.label) for entry in entries]
    if len(rows) != description.images:
        raise BadInputError(
            f"{folder} holds {len(rows)} images, but dataset.json says {description.images}",
            "write the folder anew with synthesize",
        )
    shards, offsets, sizes, labels = np.array(rows, dtype=np.int64).T
    if labels.min() < 0 or labels.max() >= len(description.class_names):
        wrong = int(np.flatnonzero((labels < 0) | (labels >= len(description.class_names)))[0])
        raise BadInputError(
            f"{paths[shards[wrong]]}: label {labels[wrong]} at byte {offsets[wrong]}, "
            f"but there are {len(description.class_names)} classes"
        )
    return Index(paths, shards, offsets, sizes, labels)


def _shard_paths(folder: Path, shards: int) -> tuple[Path, ...]:
    """All shards of a folder, in order; none of them a link to somewhere else."""
    there, surplus = numbered(folder, shard_name, shards)
    if len(there) < shards:
        first = next(name for name in map(shard_name, range(shards)) if name not in there)
        raise IncompleteError(f"{folder} lacks {shards - len(there)} of {shards} shards, first {first}", RESUME_HINT)
    if surplus:
        raise BadInputError(
            f"{folder} holds {min(surplus)}, but dataset.json knows {shards} shards",
            "remove what does not belong, or write the folder anew with synthesize",
        )
    paths = tuple(folder / shard_name(number) for number in range(shards))
    for path in paths:
        if leads_out(path, folder):
            raise BadInputError(f"{path} is a link that leads out of the data set", "put the shard itself there")
    return paths


class SyntheticImages:
    """The images of an index as uint8 [3, S, S]; each is decoded whenever it is asked for.

    Every stored image must have a side of `native_size` pixels; they are resized bicubically to S, `image_size`.
    """

    def __init__(self, index: Index, native_size: int, image_size: int) -> None:
        self.index, self.native_size, self.image_size = index, native_size, image_size

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: int | Sequence[int] | Rows) -> Tensor:
        """One image [3, S, S], or the batch [B, 3, S, S] of some rows."""
        if isinstance(rows, int):
            return self._decode(rows)
        images_B3SS = torch.empty(len(rows), 3, self.image_size, self.image_size, dtype=torch.uint8)
        for place, image in enumerate(self._workers.map(self._decode, rows)):
            images_B3SS[place] = image
        return images_B3SS

    @cached_property
    def _workers(self) -> ThreadPoolExecutor:
        """Threads that decode, kept from one batch to the next; Pillow lets them run side by side."""
        return ThreadPoolExecutor(max(1, cores() // ranks_here()))

    def _decode(self, row: int) -> Tensor:
        """Read and decode one image; raises BadInputError for one that is not as dataset.json promises."""
        path, offset = self.index.paths[self.index.shards[row]], int(self.index.offsets[row])
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                content = os.pread(descriptor, int(self.index.sizes[row]), offset)
            finally:
                os.close(descriptor)
            rgb = decode_image(content, self.native_size)
        except UNDECODABLE as error:
            raise BadInputError(
                f"{path}: the image at byte {offset} cannot be used: {error}",
                "delete this shard and run synthesize again: it writes only what is missing",
            ) from error
        if rgb.size != (self.image_size, self.image_size):
            rgb = rgb.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def read_images(folder: Path, description: Description, side: int | None = None) -> SyntheticImages:
    """The images of a data set, at a side in pixels or at their own; their labels are in the index.

    Raises:
        IncompleteError, BadInputError: as `read_index`.
    """
    own = description.image_size
    return SyntheticImages(read_index(folder, description), own, side or own)
