"""Real labelled images as shards, so that the server's training reads them as it reads drawn ones."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from fglfast.images.labelled import LabelledImages
from fglfast.shards.description import FACTS, Description, write_description
from fglfast.shards.tar import Sample, encode_image, shard_name, write_shard

SHARD_SIZE = 4096  # images


def pack(dataset: LabelledImages, image_size: int, folder: Path) -> None:
    """Write all images, cropped to squares of so many pixels a side, as shards.

    A folder that is whole, as its `dataset.json` says, which is written last, is left as it is.
    """
    if (folder / FACTS).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    content = hashlib.sha256()

    def samples(rows: range) -> Iterator[Sample]:
        for row in rows:
            image, label = encode_image(dataset.pixels(row, image_size), "png"), int(dataset.labels[row])
            content.update(b"%d %d " % (label, len(image)) + image)
            yield Sample(f"{row:09d}", image, label, {})

    starts = range(0, len(dataset), SHARD_SIZE)
    for number, start in enumerate(starts):
        rows = range(start, min(start + SHARD_SIZE, len(dataset)))
        write_shard(folder / shard_name(number), samples(rows), "png")
    description = Description(
        plan=content.hexdigest(),
        class_names=dataset.class_names,
        images=len(dataset),
        shards=len(starts),
        image_size=image_size,
    )
    write_description(folder, description)
