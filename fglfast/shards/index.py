"""A synthetic data set on disk: its description, its index and its images. Knows no model.

The folder holds `dataset.json` and WebDataset shards `train-000000.tar`, ... with the members KEY.png or
KEY.webp, KEY.cls (the label as text) and KEY.json. Nothing is unpacked: the tar headers are read once,
the images are then read at their offsets. The folder may be a stranger's.
"""

import os
import re
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.utils.data import Dataset

from fglfast.base.config import checked_json
from fglfast.base.errors import BadInputError, IncompleteError
from fglfast.base.folders import leads_out, numbered
from fglfast.base.names import ClassNames
from fglfast.base.untrusted import read_bytes
from fglfast.images.decoding import MOST_SIDE, opened
from fglfast.shards.headers import Member, content, members

FORMAT_VERSION = 1
FACTS_LIMIT = 16 * 2**20
MEMORY_LIMIT = 2 * 2**30
MEMBER_LIMIT = 64 * 2**20
LABEL_LIMIT = 32
MEMBER_NAME = re.compile(r"([\w-]+)\.(png|webp|cls|json)", re.ASCII)
RESUME_HINT = "synthesize is not finished: run it again, it goes on where it stopped."

Rows = NDArray[np.int64]


class Description(BaseModel):
    """What `dataset.json` says of a synthetic data set; other keys are for others."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format_version: int
    class_names: ClassNames
    image_size: int = Field(ge=1, le=MOST_SIDE)
    plan: str = Field(min_length=1, max_length=128)
    images: int = Field(ge=1)
    shards: int = Field(ge=1)


def read_description(folder: Path) -> Description:
    """Read and check `dataset.json`.

    Raises:
        BadInputError: it is missing, of another version or not as it must be.
    """
    path = folder / "dataset.json"
    try:
        description = checked_json(Description, read_bytes(path, FACTS_LIMIT), strict=True)
    except OSError as error:
        raise BadInputError(
            f"{folder} is not a synthetic data set: {path} cannot be read", "Name a folder written by synthesize."
        ) from error
    except ValueError as error:
        raise BadInputError(f"{path}: {error}", "Write the folder anew with synthesize.") from error
    if description.format_version != FORMAT_VERSION:
        raise BadInputError(
            f"{path} has format version {description.format_version}, this program reads {FORMAT_VERSION}",
            "Write the folder anew with this version's synthesize.",
        )
    return description


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
        BadInputError: a shard is damaged, holds what it must not, or a label is out of range.
    """
    paths = _shard_paths(folder, description.shards)
    rows = [(number, *row) for number, path in enumerate(paths) for row in _shard_rows(path)]
    if len(rows) != description.images:
        raise BadInputError(
            f"{folder} holds {len(rows)} images, but dataset.json says {description.images}",
            "Write the folder anew with synthesize.",
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
    there, surplus = numbered(folder, _shard_name, shards)
    if len(there) < shards:
        first = next(name for name in map(_shard_name, range(shards)) if name not in there)
        raise IncompleteError(f"{folder} lacks {shards - len(there)} of {shards} shards, first {first}", RESUME_HINT)
    if surplus:
        raise BadInputError(
            f"{folder} holds {min(surplus)}, but dataset.json knows {shards} shards",
            "Remove what does not belong, or write the folder anew with synthesize.",
        )
    paths = tuple(folder / _shard_name(number) for number in range(shards))
    for path in paths:
        if leads_out(path, folder):
            raise BadInputError(f"{path} is a link out of the data set", "Put the shard itself there.")
    return paths


def _shard_name(number: int) -> str:
    return f"train-{number:06d}.tar"


def _shard_rows(path: Path) -> list[tuple[int, int, int]]:
    """(offset, size, label) of every image of one shard, in the order of its members."""
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with path.open("rb") as stream:
            for member in members(stream):
                key, kind = _checked_name(path, member)
                known: dict[str, tuple[int, int]] | dict[str, int] = labels if kind == "cls" else images
                if kind != "json" and key in known:
                    raise BadInputError(f"{path}: {member.name} is there twice")
                if kind == "cls":
                    labels[key] = _label(path, member.name, content(stream, member))
                elif kind != "json":
                    images[key] = (member.offset, member.size)
    except (tarfile.TarError, OSError) as error:
        raise BadInputError(
            f"{path} is damaged: {error}", "Delete this shard and run synthesize again: it writes only what is missing."
        ) from error
    lonely = sorted(images.keys() ^ labels.keys())
    if lonely:
        raise BadInputError(f"{path}: {lonely[0]} has no {'label' if lonely[0] in images else 'image'}")
    return [(*place, labels[key]) for key, place in images.items()]


def _checked_name(path: Path, member: Member) -> tuple[str, str]:
    match = MEMBER_NAME.fullmatch(member.name)
    if match is None:
        raise BadInputError(f"{path} holds {member.name!r}, which is no image, label or description")
    most = LABEL_LIMIT if match[2] == "cls" else MEMBER_LIMIT
    if member.size > most:
        raise BadInputError(f"{path}: {member.name} has {member.size} bytes, at most {most} are read")
    return match[1], match[2]


def _label(path: Path, name: str, text: bytes) -> int:
    if not re.fullmatch(rb"\d{1,9}\s*", text):
        raise BadInputError(f"{path}: {name} is not a label: {text!r}")
    return int(text)


class SyntheticImages(Dataset[Tensor]):
    """The images of an index as uint8 [3, S, S], resized bicubically; kept decoded when they all fit.

    Args:
        index: where they lie.
        native_size: side in pixels every stored image must have.
        image_size: S, the side they are resized to.
        memory_limit: bytes the decoded images may take; above it they are decoded each time.
    """

    def __init__(self, index: Index, native_size: int, image_size: int, memory_limit: int = MEMORY_LIMIT) -> None:
        self.index, self.native_size, self.image_size = index, native_size, image_size
        self.in_memory = len(index) * 3 * image_size**2 <= memory_limit

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, row: int) -> Tensor:
        return self._kept[row] if self.in_memory else self._decode(row)

    def __getitems__(self, rows: list[int]) -> Tensor:
        """The batch [B, 3, S, S] of these rows."""
        return self._kept[rows] if self.in_memory else torch.stack([self._decode(row) for row in rows])

    @cached_property
    def _kept(self) -> Tensor:
        images_N3SS = torch.empty(len(self), 3, self.image_size, self.image_size, dtype=torch.uint8)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for row, image in enumerate(pool.map(self._decode, range(len(self)))):
                images_N3SS[row] = image
        return images_N3SS

    def _decode(self, row: int) -> Tensor:
        """Read and decode one image; raises BadInputError for one that is not as dataset.json promises."""
        path, offset = self.index.paths[self.index.shards[row]], int(self.index.offsets[row])
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                content = os.pread(descriptor, int(self.index.sizes[row]), offset)
            finally:
                os.close(descriptor)
            rgb = _rgb(content, self.native_size)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise BadInputError(
                f"{path}: the image at byte {offset} cannot be used: {error}",
                "Delete this shard and run synthesize again: it writes only what is missing.",
            ) from error
        if rgb.size != (self.image_size, self.image_size):
            rgb = rgb.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def _rgb(content: bytes, size: int) -> Image.Image:
    """Decode PNG or WebP; the size is checked before any pixel is decoded."""
    with opened(content, ("PNG", "WEBP")) as image:
        if image.size != (size, size):
            raise ValueError(f"it is {image.size[0]}x{image.size[1]}, not {size}x{size}")
        return image.convert("RGB")
