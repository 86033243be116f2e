"""Tar shards in WebDataset's layout: reproducible bytes, atomic, read within bounds.

A shard that exists under its own name is complete; anything else is a temporary file.
"""

import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fglfast.base.errors import BadInputError, FglError
from fglfast.base.files import replacing, sync_folder
from fglfast.base.untrusted import json_object
from fglfast.images.decoding import opened
from fglfast.shards.checksums import Hashing, read_checksum, write_checksum
from fglfast.shards.headers import TarMember, content, members

ImageFormat = Literal["png", "webp"]
PNG_LEVEL = 1  # level 6 takes three times as long for a few per cent of bytes
WEBP_QUALITY = 90
MOST_IMAGE, MOST_LABEL, MOST_FACTS = 64 << 20, 32, 64 << 10  # bytes of a member that are read
IMAGE_NAME = re.compile(r"([0-9]{9,12})\.(png|webp)")
LABEL = re.compile(rb"[0-9]{1,9}")
UNDECODABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # of Pillow's decoders


@dataclass(frozen=True)
class Sample:
    """One labelled image as it is written.

    Attributes:
        key: name within the shard, without extension.
        image: encoded bytes.
        label: class index.
        facts: goes into `KEY.json`.
    """

    key: str
    image: bytes
    label: int
    facts: dict[str, Any]


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"train-{number:06d}.tar"


def is_cut(shard: Path) -> bool:
    """Whether a file does not end as shards do, in whole records and two empty blocks; nothing else of it is read."""
    end = 2 * tarfile.BLOCKSIZE
    with shard.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - end))
        return size % tarfile.RECORDSIZE != 0 or stream.read(end) != bytes(end)


def encode_image(pixels_HWC: NDArray[np.uint8], image_format: ImageFormat) -> bytes:
    """Encode uint8 RGB pixels; PNG without loss, WebP at quality 90."""
    buffer, image = io.BytesIO(), Image.fromarray(pixels_HWC)
    if image_format == "png":
        image.save(buffer, "PNG", compress_level=PNG_LEVEL)
    else:
        image.save(buffer, "WEBP", quality=WEBP_QUALITY)
    return buffer.getvalue()


def write_shard(path: Path, samples: Iterable[Sample], image_format: ImageFormat, expected: str | None = None) -> int:
    """Write a shard under a temporary name, fsync it, write its checksum and rename it; returns its bytes.

    Raises:
        FglError: another sha256 is expected; what was there is left as it was.
        OSError: the disk refused.
    """
    with replacing(path) as stream:
        hashing = Hashing(stream)
        write_tar(hashing, samples, image_format)
        if expected not in (None, hashing.digest()):
            raise FglError(
                f"{path}: drawn again it has sha256 {hashing.digest()[:16]}, not {str(expected)[:16]}",
                "use the machine, the versions and the batch size that drew it; nothing was changed",
            )
        write_checksum(path, hashing.digest())
    return hashing.size


def link_shard(shard: Path, path: Path) -> bool:
    """Give a sound shard a second name, and its checksum; False where the file system cannot, or no checksum is known.

    The content lies on the disk once, and is safe: shards are replaced as a whole and never written to.
    """
    digest = read_checksum(shard)
    if digest is None:
        return False
    write_checksum(path, digest)
    try:
        os.link(shard, path)
    except OSError:
        return False
    sync_folder(path.parent)
    return True


def write_tar(stream: Hashing, samples: Iterable[Sample], image_format: ImageFormat) -> None:
    """Write what a shard holds; equal samples, equal bytes."""
    with tarfile.open(fileobj=cast(IO[bytes], stream), mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            facts = json.dumps(sample.facts, sort_keys=True, separators=(",", ":"))
            _add(tar, f"{sample.key}.{image_format}", sample.image)
            _add(tar, f"{sample.key}.cls", str(sample.label).encode())
            _add(tar, f"{sample.key}.json", facts.encode())


@dataclass(frozen=True)
class Entry:
    """As `Sample`, as it lies in a shard, its pixels and facts unread."""

    key: str
    image: TarMember
    label: int
    facts: TarMember


def entries(stream: BinaryIO) -> Iterator[Entry]:
    """What a shard holds, in order: for each image KEY.png or KEY.webp, then KEY.cls, then KEY.json.

    Raises:
        tarfile.ReadError, ValueError: it holds something else; a member is named.
    """
    found = members(stream)
    for image in found:
        match = IMAGE_NAME.fullmatch(image.name)
        if match is None:
            raise ValueError(f"{image.name!r} is no image's name, or not where it should be")
        key = match[1]
        text = content(stream, _checked(next(found, None), f"{key}.cls", MOST_LABEL))
        if not LABEL.fullmatch(text):
            raise ValueError(f"{key}.cls is not a label: {text!r}")
        facts = _checked(next(found, None), f"{key}.json", MOST_FACTS)
        yield Entry(key, _checked(image, image.name, MOST_IMAGE), int(text), facts)


def read_entries(path: Path) -> Iterator[Entry]:
    """As `entries`, of a file.

    Raises:
        BadInputError: it is damaged, or cannot be read.
    """
    with _reading(path) as stream:
        yield from entries(stream)


def read_facts(path: Path, entry: Entry) -> dict[str, Any]:
    """What `KEY.json` says of an image.

    Raises:
        BadInputError: it is damaged, or cannot be read.
    """
    with _reading(path) as stream:
        return json_object(content(stream, entry.facts))


def read_samples(path: Path, classes: int | None = None) -> Iterator[tuple[str, Sample]]:
    """The images of a shard, in order, each with its file name: digits, a dot, `png` or `webp`.

    Raises:
        BadInputError: the shard is damaged, or cannot be read, or a label is of none of so many classes.
    """
    with _reading(path) as stream:
        for name, sample in samples_of(stream):
            if classes is not None and sample.label >= classes:
                raise BadInputError(f"{path}: {name} has label {sample.label} of {classes} classes", "verify it")
            yield name, sample


def check_places(folder: Path, shards: int) -> None:
    """Refuse a data set in which a shard lies under another's name: synthesize names images by their place in it.

    Raises:
        BadInputError: one does, or is damaged.
    """
    place = 0
    for number in range(shards):
        shard = folder / shard_name(number)
        entries = list(read_entries(shard))
        check_place(shard, entries, place)
        place += len(entries)


def check_place(shard: Path, entries: Sequence[Entry], place: int) -> None:
    """As `check_places`, of one shard that holds these entries; so many images are in the shards before it."""
    if entries and int(entries[0].key) != place:
        raise BadInputError(
            f"{shard}: holds another shard: its first image is number {int(entries[0].key)}, not {place}",
            f"fglfast verify {shard.parent} --repair draws the right one again",
        )


def samples_of(stream: BinaryIO) -> Iterator[tuple[str, Sample]]:
    """As `read_samples`, of an open file.

    Raises:
        tarfile.ReadError, ValueError: it is not of this layout.
    """
    for entry in entries(stream):
        facts = json_object(content(stream, entry.facts))
        yield entry.image.name, Sample(entry.key, content(stream, entry.image), entry.label, facts)


def decode_image(encoded: bytes, size: int | None = None) -> Image.Image:
    """An image of a shard as RGB; its size, if one is given, is checked before a pixel is decoded.

    Raises:
        Exception: `UNDECODABLE`.
    """
    with opened(encoded, tuple(kind.upper() for kind in get_args(ImageFormat))) as image:
        if size is not None and image.size != (size, size):
            raise ValueError(f"it is {image.size[0]}x{image.size[1]}, not {size}x{size}")
        return image.convert("RGB")


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as stream:
            yield stream
    except (OSError, tarfile.TarError, ValueError) as error:
        hint = "fglfast verify finds damaged shards and, with --repair, draws them again"
        raise BadInputError(f"{path}: damaged ({error})", hint) from error


def _checked(member: TarMember | None, name: str, most: int) -> TarMember:
    if member is None or member.name != name:
        raise ValueError(f"{name} is not where it should be")
    if member.size > most:
        raise ValueError(f"{name} has {member.size} bytes, at most {most} are read")
    return member


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # owner, group and time are zero: equal images, equal bytes
    member.size = len(content)
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(content))
