"""A finished data set takes the place of the one around it, at once for those who look, whenever this is killed.

While it is made it lies in `.update`. Renamed to `.swap` it is decided: from then on whoever writes in the folder moves
it on to its end, and nobody reads, because `dataset.json` goes first and comes last.
"""

import re
import shutil
from contextlib import suppress
from pathlib import Path

from fglfast.base.console import note
from fglfast.base.errors import BadInputError
from fglfast.base.files import sync_folder
from fglfast.base.untrusted import read_object
from fglfast.base.wording import some
from fglfast.shards import checksums
from fglfast.shards.description import FACTS, IMAGES, PARQUET, SWAP, UPDATE, read_description
from fglfast.shards.keep import LEFT_OUT
from fglfast.shards.tar import shard_name
from fglfast.synthesis.drawn import Drawn

STOPPING, MOST_STOPPING = "stopping.json", 64 << 20  # what a stop rule asked and decided, and bytes of it
SHARD = re.compile(r"train-([0-9]{6,})\.tar(\.sha256)?", re.ASCII)


def take_place(out: Path) -> None:
    """Let the data set in `out/.update`, which is complete, take the place of the one in `out`."""
    sync_folder(out / UPDATE)
    (out / UPDATE).rename(out / SWAP)
    sync_folder(out)
    roll_forward(out)


def roll_forward(out: Path) -> bool:
    """Move what was decided to its end; whether there was anything. What belongs to the older data set goes.

    What was unpacked, left out or half written goes too: there would be images of clients that left.
    """
    swap = out / SWAP
    if not swap.is_dir():
        return False
    if (swap / FACTS).exists():
        _remove_stopping(out)  # first: once `dataset.json` is gone, nobody knows what it told of
        (out / FACTS).unlink(missing_ok=True)
        sync_folder(out)
        _remove_others(out)
        count = read_description(swap).shards
        (out / checksums.FOLDER).mkdir(exist_ok=True)
        for name in (checksums.FOLDER, "."):
            _replace(swap / name, out / name, count)
        (swap / FACTS).replace(out / FACTS)
        sync_folder(out)
    shutil.rmtree(swap)
    return True


def _remove_stopping(out: Path) -> None:
    """Remove a stop rule's record and say so, unless what takes the place is what it decided to draw."""
    if (out / STOPPING).exists() and (out / FACTS).exists() and not _is_decided(out):
        (out / STOPPING).unlink()
        note(f"{out}: {STOPPING} told of the older images and went with them; --until-gain asks for another --out")


def _is_decided(out: Path) -> bool:
    """Whether the newer data set is the older at the size of the stop rule's record: so that rule draws in blocks."""
    with suppress(BadInputError):
        older, newer = Drawn.of(out).chosen(), Drawn.of(out / SWAP).chosen()
        decided = read_object(out / STOPPING, MOST_STOPPING, "").get("images_per_class")
        return older | {"images_per_class": decided} == newer
    return False


def _remove_others(out: Path) -> None:
    """Remove what was unpacked and the list of what was left out, and say so: training would miss the list."""
    there = [name for name in (IMAGES, PARQUET, LEFT_OUT) if (out / name).exists()]
    for name in there:
        if name == LEFT_OUT:
            (out / name).unlink()
        else:
            shutil.rmtree(out / name)
    if there:
        note(f"{out}: {some(there)} told of the older images and went with them; --format and --keep make them again")


def _replace(source: Path, target: Path, count: int) -> None:
    """Move all files but `dataset.json`; remove shards and checksums beyond the count, and temporary files."""
    for path in source.iterdir():
        if path.is_file() and path.name != FACTS and not path.name.endswith(".tmp"):
            path.replace(target / path.name)
    known = {shard_name(number) for number in range(count)}
    for path in target.iterdir():
        surplus = SHARD.fullmatch(path.name) and path.name.removesuffix(".sha256") not in known
        if surplus or (path.name.startswith(".") and path.name.endswith(".tmp")):
            path.unlink()
    sync_folder(target)
