"""Images that a data set holds already, found by their identity, to be taken over into another. Draws nothing."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fglfast.base.errors import BadInputError
from fglfast.base.wording import some
from fglfast.shards.headers import content
from fglfast.shards.tar import Sample, read_entries, read_facts, shard_name
from fglfast.synthesis.drawn import Drawn
from fglfast.synthesis.plan import Item, Plan
from fglfast.synthesis.writer import key_of

OPEN = 16  # shards whose entries are remembered


class Older:
    """The images in the shards of a data set that are sound, by their numbers; the plan is its own."""

    def __init__(self, folder: Path, plan: Plan, sound: Collection[int]) -> None:
        self.folder, self.plan, self.sound = folder, plan, frozenset(sound)
        self._entries = lru_cache(OPEN)(lambda number: list(read_entries(folder / shard_name(number))))

    def holds(self, item: Item) -> bool:
        """Whether the image of this identity is there."""
        index = self.plan.index_of(item)
        return index is not None and index // self.plan.shard_size in self.sound

    def sample(self, item: Item) -> Sample:
        """The image of this identity, encoded as it is, under the place and label that it has now.

        Raises:
            BadInputError: another image is where it should be.
        """
        index = self.plan.index_of(item)
        assert index is not None
        number, place = divmod(index, self.plan.shard_size)
        path, entry = self.folder / shard_name(number), self._entries(number)[place]
        facts = read_facts(path, entry)
        if (facts.get("row"), facts.get("ordinal")) != (item.digest, item.ordinal):
            raise BadInputError(f"{path}: {entry.key} is another image than the plan's", "find it with fglfast verify")
        with path.open("rb") as stream:
            return Sample(key_of(item), content(stream, entry.image), item.label, facts | {"class": item.label})

    def equal_shard(self, items: Collection[Item], number: int) -> Path | None:
        """The shard that holds just these images in just these places, with these labels; None if there is none."""
        if number not in self.sound or len(items) != self.plan.size(number):
            return None
        same = all(
            self.plan.index_of(item) == item.index and self.plan.item(item.index).label == item.label for item in items
        )
        return self.folder / shard_name(number) if same else None


@dataclass(frozen=True)
class Change:
    """How a data set differs from the one that is to take its place.

    Attributes:
        joined: clients that are in the new one only.
        left: in the old one only.
        changed: in both, with other payloads.
        kept: images that are taken over.
        dropped: images that are there and are not wanted any more.
        new: images that have to be drawn.
    """

    joined: tuple[str, ...]
    left: tuple[str, ...]
    changed: tuple[str, ...]
    kept: int
    dropped: int
    new: int

    def __str__(self) -> str:
        named = {"joined": self.joined, "left": self.left, "sent another payload": self.changed}
        words = [f"{some(names)} {what}" for what, names in named.items() if names]
        images = f"{self.kept:,} images stay, {self.dropped:,} go, {self.new:,} are new"
        return "; ".join([*words, images])


def change(there: Drawn, to_be: Drawn, sound: Collection[int]) -> Change:
    """What an update would do to a data set whose shards of the numbers `sound` can be used."""
    one, other = (dict(zip(drawn.clients, drawn.payloads, strict=True)) for drawn in (there, to_be))
    old, new, usable = there.layout, to_be.layout, frozenset(sound)
    lost = [item for number in set(range(old.shards)) - usable for item in old.shard(number)]
    images = {(to_be.class_names[row.label], row.row): row.images for row in to_be.rows}
    both = sum(min(row.images, images.get((there.class_names[row.label], row.row), 0)) for row in there.rows)
    kept = both - sum(new.index_of(item) is not None for item in lost)
    return Change(
        joined=tuple(name for name in to_be.clients if name not in one),
        left=tuple(name for name in there.clients if name not in other),
        changed=tuple(name for name in there.clients if name in other and other[name] != one[name]),
        kept=kept,
        dropped=there.images - len(lost) - kept,
        new=to_be.images - kept,
    )
