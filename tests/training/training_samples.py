"""Small synthetic data sets as tar shards: three classes a tiny network tells apart."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

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


def write_synthetic(folder: Path, per_class: int = 40, shards: int = 3, **facts: Any) -> Path:
    """A whole data set folder; `facts` overrule what dataset.json says."""
    folder.mkdir(parents=True, exist_ok=True)
    images = [(label, number) for number in range(per_class) for label in range(len(CLASSES))]
    for shard, part in enumerate(np.array_split(np.array(images), shards)):
        members = []
        for key, (label, number) in enumerate(part.tolist()):
            kind = "webp" if shard == 1 else "png"
            members.append((f"{key:09d}.{kind}", encoded(picture(label, number), kind)))
            members.append((f"{key:09d}.cls", str(label).encode()))
            members.append((f"{key:09d}.json", json.dumps({"seed": 0}).encode()))
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
