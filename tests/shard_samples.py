"""Small synthetic data sets as tar shards: three classes a tiny network tells apart."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fglfast.shards.description import read_description
from fglfast.shards.index import Index, SyntheticImages, read_images, read_index

CLASSES = ("red stripes", "green bars", "blue dots")
SIZE = 16


def picture(label: int, number: int) -> np.ndarray:
    """A noisy pattern [16, 16, 3]: direction, position and colour go with the label."""
    random = np.random.default_rng((label, number))
    pixels = random.integers(60, 200, (SIZE, SIZE, 3))
    if label == 0:
        pixels[number % 3 :: 3, :, 0] += 55
    elif label == 1:
        pixels[:, number % 3 :: 3, 1] += 55
    else:
        pixels[number % 2 :: 2, number % 3 :: 3, 2] += 55
    return np.clip(pixels, 0, 255).astype(np.uint8)


def encoded(pixels: np.ndarray, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind.upper())
    return buffer.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def sample(key: int | str, image: bytes, label: bytes, kind: str = "png") -> list[tuple[str, bytes]]:
    """An image as it lies in a shard."""
    name = f"{key:09d}" if isinstance(key, int) else key
    return [(f"{name}.{kind}", image), (f"{name}.cls", label), (f"{name}.json", b"{}")]


def write_synthetic(folder: Path, per_class: int = 40, shards: int = 3, **facts: Any) -> Path:
    """A whole data set folder; `facts` overrule what dataset.json says."""
    folder.mkdir(parents=True, exist_ok=True)
    images = [(label, number) for number in range(per_class) for label in range(len(CLASSES))]
    for shard, part in enumerate(np.array_split(np.array(images), shards)):
        members: list[tuple[str, bytes]] = []
        for key, (label, number) in enumerate(part.tolist()):
            kind = "webp" if shard == 1 else "png"
            members += sample(key, encoded(picture(label, number), kind), str(label).encode(), kind)
        write_tar(folder / f"train-{shard:06d}.tar", members)
    content = {
        "format_version": 1,
        "class_names": list(CLASSES),
        "image_size": SIZE,
        "plan": "ab" * 32,
        "images": len(images),
        "shards": shards,
        "model": "mini",
    }
    (folder / "dataset.json").write_text(json.dumps(content | facts))
    return folder


def index_of(folder: Path) -> Index:
    return read_index(folder, read_description(folder))


def images_of(folder: Path, size: int = SIZE) -> SyntheticImages:
    return read_images(folder, read_description(folder), size)


def change_json(path: Path, **keys: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
