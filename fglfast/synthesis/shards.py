"""Tar shards in WebDataset's layout: reproducible bytes, atomic. Knows nothing of images' meaning.

A shard that exists under its own name is complete; anything else is a temporary file.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fglfast.files import replacing

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


def write_shard(path: Path, samples: Iterable[Sample], image_format: ImageFormat) -> int:
    """Write a shard under a temporary name, fsync it and rename it; returns its bytes."""
    with replacing(path) as stream:
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in samples:
                facts = json.dumps(sample.facts, sort_keys=True, separators=(",", ":"))
                _add(tar, f"{sample.key}.{image_format}", sample.image)
                _add(tar, f"{sample.key}.cls", str(sample.label).encode())
                _add(tar, f"{sample.key}.json", facts.encode())
        return stream.tell()


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
