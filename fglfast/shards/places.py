"""Whether a shard is the one that its name says: `synthesize` names images by their place in the data set."""

from collections.abc import Sequence
from pathlib import Path

from fglfast.base.errors import BadInputError
from fglfast.shards.tar import Entry, read_entries, shard_name


def check_places(folder: Path, shards: int) -> None:
    """Refuse a data set of synthesize in which a shard lies under another's name.

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
    """As `check_places`, of one shard.

    Args:
        shard: its file.
        entries: what it holds.
        place: of its first image in the data set, which is how many images the shards before it hold.
    """
    if entries and int(entries[0].key) != place:
        raise BadInputError(
            f"{shard}: holds another shard: its first image is number {int(entries[0].key)}, not {place}",
            f"fglfast verify {shard.parent} --repair draws the right one again",
        )
