"""Folders: whether something below one leads out of it, what of a series it holds. Knows no file's content."""

import os
import re
from collections.abc import Callable
from pathlib import Path

NUMBER = re.compile(r"[0-9]{1,18}")


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a path below a folder is a link, or lies behind one, to somewhere else."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def numbered(folder: Path, name: Callable[[int], str], count: int) -> tuple[set[str], set[str]]:
    """Which files numbered 0 to `count` - 1 a folder holds, and which of that kind besides.

    Takes as long as the folder is, not as `count` says.

    Args:
        folder: where they lie.
        name: of the file of a number.
        count: how many there should be.
    """
    there = {path.name for path in folder.glob(f"*{Path(name(0)).suffix}")}
    known = {name(int(digits[0])) for digits in map(NUMBER.search, there) if digits and int(digits[0]) < count}
    return there & known, there - known
