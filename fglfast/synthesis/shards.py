"""Tar shards in WebDataset's layout: reproducible bytes, atomic. Knows nothing of images' meaning.

A shard that exists under its own name is complete; anything else is a temporary file.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fglfast.errors import FglError
from fglfast.files import replacing
from fglfast.synthesis.checksums import Hashing, write_checksum

ImageFormat = Literal["png", "webp"]
PNG_LEVEL = 1  # level 6 takes three times as long for a few per cent of bytes
WEBP_QUALITY = 90


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

    Args:
        path: the shard.
        samples: what it holds, in order.
        image_format: of all images.
        expected: sha256 that it must have; None takes any.

    Raises:
        FglError: it has another; what was there is left as it was.
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


def write_tar(stream: Hashing, samples: Iterable[Sample], image_format: ImageFormat) -> None:
    """Write what a shard holds; equal samples, equal bytes."""
    with tarfile.open(fileobj=cast(IO[bytes], stream), mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            facts = json.dumps(sample.facts, sort_keys=True, separators=(",", ":"))
            _add(tar, f"{sample.key}.{image_format}", sample.image)
            _add(tar, f"{sample.key}.cls", str(sample.label).encode())
            _add(tar, f"{sample.key}.json", facts.encode())


def read_shard(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every regular file of a shard, in order."""
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            if content:
                yield member.name, content.read()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # owner, group and time are zero: equal images, equal bytes
    member.size = len(content)
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(content))
