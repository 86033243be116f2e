"""Which image, which class, which embedding row, which seed; what is left to do.

A plan is arithmetic, not a list: a million images cost no more than their rows. An image is named by what it is made
of: its class's name, the digest of its row, its ordinal. Nothing that another client sends changes that, nor does an
order of clients, files or classes. Classes alternate, and so do the rows of a class: any first part of a data set is a
fair sample of all clients.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import ConfigDict, Field

from fglfast.base.errors import BadInputError
from fglfast.payload.merge import Merged, row_digests
from fglfast.shards.tar import shard_name
from fglfast.synthesis.allot import Ints, allot_rows
from fglfast.synthesis.order import InTurn, Order, RowByRow

MOST_A_CLASS = 10_000_000  # images
REDRAWS = 3  # of an image that comes out blank


@dataclass(frozen=True, slots=True)
class Row:
    """A distinct prompt of a class, whoever sent it.

    Attributes:
        label: class.
        row: digest of the prompt's content; see `row_digests`.
        images: how many are drawn of it, ordinals 0 to `images` - 1.
        claims: by client, the private images that it says are behind the row.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    label: Annotated[int, Field(ge=0)]
    row: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    images: Annotated[int, Field(ge=0, le=MOST_A_CLASS)]
    claims: Annotated[dict[str, Annotated[int, Field(ge=1, lt=1 << 63)]], Field(min_length=1)]


@dataclass(frozen=True)
class Item:
    """The identity of an image, (plan seed, class name, digest of the row, ordinal), and its place in the plan.

    Attributes:
        index: the place.
        label: class.
        row: a row of the merged payloads that holds the prompt.
        ordinal: which of the row's images.
        name: of the class.
        digest: of the row's content.
        draw: 0, unless so many draws of this identity came out blank.
    """

    index: int
    label: int
    row: int
    ordinal: int
    name: str
    digest: str
    draw: int = 0


@dataclass(frozen=True)
class Plan:
    """A deterministic assignment of images to classes, rows and shards.

    Attributes:
        class_names: names of all classes.
        images_per_class: images of each class that has a row.
        seed: plan seed; any unsigned 64-bit integer.
        shard_size: images a shard, but for the last.
        rows: ascending by label, then digest; those of a class have `images_per_class` images together.
        places: for each row, one of the merged payloads that holds it; without payloads, nothing.
        settings: what else decides the images (model weights, steps, guidance, format); must be JSON.
        in_turn: whether the rows of a class take turns; up to format 2 of a data set, one followed the other.
    """

    class_names: tuple[str, ...]
    images_per_class: int
    seed: int
    shard_size: int
    rows: tuple[Row, ...]
    places: tuple[int, ...]
    settings: Mapping[str, object]
    in_turn: bool = True

    @cached_property
    def present(self) -> Ints:
        """Classes that some client has a row for, ascending [P]."""
        return np.unique(np.array([row.label for row in self.rows], dtype=np.int64))

    def _order(self, slot: int) -> Order:
        """How the images of a present class stand; worked out when it is first asked for."""
        if slot not in self._orders:
            start = int(self._first[slot])
            end = int(self._first[slot + 1]) if slot + 1 < len(self._first) else len(self.rows)
            images = np.array([row.images for row in self.rows[start:end]], dtype=np.int64)
            self._orders[slot] = (InTurn if self.in_turn else RowByRow)(images)
        return self._orders[slot]

    @cached_property
    def _orders(self) -> dict[int, Order]:
        return {}

    @cached_property
    def _first(self) -> Ints:
        """For each present class, its first row [P]."""
        return np.unique(np.array([row.label for row in self.rows], dtype=np.int64), return_index=True)[1]

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
        position, ordinal = self._order(slot).at(within)
        number = int(self._first[slot]) + position
        row = self.rows[number]
        place = self.places[number] if self.places else -1
        return Item(index, row.label, place, ordinal, self.class_names[row.label], row.row)

    def index_of(self, item: Item) -> int | None:
        """Where the image of this identity stands in this plan; None if it holds no such image."""
        slot, position = self._spots.get((item.name, item.digest), (0, -1))
        if position < 0 or item.ordinal >= self.rows[int(self._first[slot]) + position].images:
            return None
        return self._order(slot).place(position, item.ordinal) * len(self.present) + slot

    @cached_property
    def _spots(self) -> Mapping[tuple[str, str], tuple[int, int]]:
        """By class name and digest, the slot of a row's class and its place there."""
        slots = np.searchsorted(self.present, [row.label for row in self.rows]).tolist()
        return {
            (self.class_names[row.label], row.row): (slot, number - int(self._first[slot]))
            for number, (row, slot) in enumerate(zip(self.rows, slots, strict=True))
        }

    def digest(self) -> str:
        """sha256 of the whole plan: two plans with one digest make the same images, whoever claims the rows."""
        facts = [
            self.class_names,
            self.images_per_class,
            self.seed,
            self.shard_size,
            self.settings,
            [(row.label, row.row, row.images) for row in self.rows],
            *(["rows in turn"] if self.in_turn else []),
        ]
        return hashlib.sha256(json.dumps(facts, ensure_ascii=False, sort_keys=True).encode()).hexdigest()

    def remaining(self, folder: Path) -> list[int]:
        """Shards that are not in the folder yet."""
        done = {entry.name for entry in folder.glob("*.tar")}
        return [number for number in range(self.shards) if shard_name(number) not in done]


def make_plan(
    merged: Merged,
    images_per_class: int,
    seed: int,
    shard_size: int,
    settings: dict[str, object],
    max_share: float = 1.0,
) -> Plan:
    """Balance the classes, and share each among its rows in proportion to their counts.

    Rows of equal content are one, and have the counts of all clients that sent it. A change of counts changes how many
    ordinals a row has, and no image. One client's rows get `max_share` of a class's images if others hold it too; see
    `Plan` for the others.

    Raises:
        BadInputError: the payloads hold no row.
    """
    if not len(merged.labels):
        raise BadInputError("the payloads hold no embedding", "embed at least one image")
    claims, places = _claims(merged)
    ordered = sorted(claims)
    clients = {client: number for number, client in enumerate(merged.clients)}
    allotted: list[int] = []
    starts = [0, *(k for k in range(1, len(ordered)) if ordered[k][0] != ordered[k - 1][0]), len(ordered)]
    for start, end in pairwise(starts):
        own = [
            (count, row, clients[client])
            for row, key in enumerate(ordered[start:end])
            for client, count in claims[key].items()
        ]
        counts, of_rows, owners = np.array(own, dtype=np.int64).T
        allotted += allot_rows(images_per_class, counts, of_rows, owners, max_share).tolist()
    rows = tuple(
        Row(label, digest, images, claims[label, digest])
        for (label, digest), images in zip(ordered, allotted, strict=True)
    )
    of_row = tuple(places[key] for key in ordered)
    return Plan(merged.class_names, images_per_class, seed, shard_size, rows, of_row, settings)


def _claims(merged: Merged) -> tuple[dict[tuple[int, str], dict[str, int]], dict[tuple[int, str], int]]:
    """By label and digest: what each client claims, in order of name; and the first of the merged rows."""
    claims: dict[tuple[int, str], dict[str, int]] = {}
    places: dict[tuple[int, str], int] = {}
    keys = zip(merged.labels.tolist(), row_digests(merged), strict=True)
    for place, (key, client, count) in enumerate(
        zip(keys, merged.row_client.tolist(), merged.counts.tolist(), strict=True)
    ):
        places.setdefault(key, place)
        own = claims.setdefault(key, {})
        own[merged.clients[client]] = own.get(merged.clients[client], 0) + count
    return claims, places
