"""Which image, which class, which embedding row, which seed; what is left to do. Knows no model.

A plan is arithmetic, not a list: a million images cost a few arrays as long as the payload rows.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fglfast.base.errors import BadInputError
from fglfast.payload.merge import Merged
from fglfast.shards.tar import shard_name
from fglfast.synthesis.allot import Ints, allot_rows


@dataclass(frozen=True)
class Item:
    """The identity of an image, (plan seed, class, embedding row, ordinal), and its place in the plan.

    Attributes:
        index: the place.
        label: class.
        row: row of the merged payloads.
        ordinal: which of the row's images.
        draw: 0, unless so many draws of this identity came out blank.
    """

    index: int
    label: int
    row: int
    ordinal: int
    draw: int = 0


@dataclass(frozen=True)
class Plan:
    """A deterministic assignment of images to classes, rows and shards.

    Attributes:
        class_names: names of all classes.
        present: classes that some client has a row for, ascending [P].
        images_per_class: images of each present class.
        seed: plan seed; any unsigned 64-bit integer.
        shard_size: images a shard, but for the last.
        row_of_class: for each present class its rows, ascending.
        until_row: for each present class, at what count within the class each of its rows ends.
        content: sha256 of all that decides the images besides the above.
    """

    class_names: tuple[str, ...]
    present: Ints
    images_per_class: int
    seed: int
    shard_size: int
    row_of_class: tuple[Ints, ...]
    until_row: tuple[Ints, ...]
    content: str

    @property
    def images(self) -> int:
        """Number of images in the plan."""
        return len(self.present) * self.images_per_class

    @property
    def shards(self) -> int:
        """Number of shards in the plan."""
        return -(-self.images // self.shard_size)

    def shard(self, number: int) -> list[Item]:
        """The images of one shard; classes alternate, so every shard is balanced."""
        start = number * self.shard_size
        return [self.item(index) for index in range(start, start + self.size(number))]

    def size(self, number: int) -> int:
        """Images of one shard."""
        return min(self.shard_size, self.images - number * self.shard_size)

    def items(self) -> Iterator[Item]:
        """All images, in order."""
        return map(self.item, range(self.images))

    def item(self, index: int) -> Item:
        """The identity of the image at a position of the plan."""
        within, slot = divmod(index, len(self.present))
        until = self.until_row[slot]
        position = int(np.searchsorted(until, within, side="right"))
        ordinal = within - (int(until[position - 1]) if position else 0)
        return Item(index, int(self.present[slot]), int(self.row_of_class[slot][position]), ordinal)

    def digest(self) -> str:
        """sha256 of the whole plan: two plans with one digest make the same images."""
        facts = [
            self.class_names,
            self.present.tolist(),
            self.images_per_class,
            self.seed,
            self.shard_size,
            self.content,
        ]
        return hashlib.sha256(json.dumps(facts, ensure_ascii=False).encode()).hexdigest()

    def remaining(self, folder: Path, rank: int = 0, world_size: int = 1) -> list[int]:
        """Shards of this rank that are not in the folder yet; ranks take rank::world_size."""
        done = {entry.name for entry in folder.glob("*.tar")}
        return [number for number in range(rank, self.shards, world_size) if shard_name(number) not in done]


def make_plan(
    merged: Merged,
    images_per_class: int,
    seed: int,
    shard_size: int,
    settings: dict[str, object],
    max_share: float = 1.0,
) -> Plan:
    """Balance the classes, and share each among its rows in proportion to their counts.

    Args:
        merged: the payload rows of all clients.
        images_per_class: images of every class that has at least one row.
        seed: plan seed.
        shard_size: images a shard.
        settings: what else decides the images (model weights, steps, guidance, format, cap); must be JSON.
        max_share: of a class's images that one client's rows get if others hold it too.

    Raises:
        BadInputError: the payloads hold no row.
    """
    if not len(merged.labels):
        raise BadInputError("the payloads hold no embedding", "embed at least one image")
    order = np.argsort(merged.labels, kind="stable")  # by class, and ascending within: one pass for any number of them
    present, first = np.unique(merged.labels[order], return_index=True)
    rows = tuple(np.split(order, first[1:]))
    content = json.dumps([merged.digests, settings], sort_keys=True)
    return Plan(
        class_names=merged.class_names,
        present=present,
        images_per_class=images_per_class,
        seed=seed,
        shard_size=shard_size,
        row_of_class=rows,
        until_row=tuple(
            np.cumsum(allot_rows(images_per_class, merged.counts[own], merged.row_client[own], max_share))
            for own in rows
        ),
        content=hashlib.sha256(content.encode()).hexdigest(),
    )
