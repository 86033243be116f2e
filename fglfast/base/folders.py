"""What is in a folder: links that lead out of it, files that systems leave there, numbered files."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from fglfast.base.errors import BadInputError

NUMBER = re.compile(r"[0-9]{1,18}")
# Left by macOS (also in every zip it makes), Windows, Synology and Linux; hidden ones begin with a dot.
SYSTEM = frozenset(["__macosx", "icon\r", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin"])
SYSTEM |= {"system volume information", "@eadir", "lost+found"}


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a path below a folder is a link, or lies behind one, to somewhere else."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def is_system(name: str) -> bool:
    """Whether a file or folder is hidden, or one that a system puts there for itself."""
    return name.startswith(".") or name.lower() in SYSTEM


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name, without hidden and system ones; none if it is not a folder."""
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted(entry for entry in entries if entry.is_dir() and not is_system(entry.name))


def files_below(entry: Path, folder: Path) -> list[Path]:
    """The files at any depth below a folder, sorted, without those whose path in `folder` is hidden or a system's.

    A link to a folder is one of them: it is not followed.

    Raises:
        BadInputError: a folder there cannot be read.
    """
    if any(map(is_system, entry.relative_to(folder).parts)):
        return []
    found = list[Path]()
    for root, folders, files in os.walk(entry, onerror=_refuse):
        folders[:] = [name for name in folders if not is_system(name)]  # those left are walked
        links = [name for name in folders if Path(root, name).is_symlink()]
        found += [Path(root, name) for name in (*files, *links) if not is_system(name)]
    return sorted(found)


def _refuse(error: OSError) -> NoReturn:
    reason = f"{error.filename}: this folder cannot be read ({error.strerror})"
    raise BadInputError(reason, "give yourself the right to read it, or move it out of the data set") from error


def numbered(folder: Path, name: Callable[[int], str], count: int) -> tuple[set[str], set[str]]:
    """Which files numbered 0 to `count` - 1 a folder holds, and which others of that kind.

    `name` gives the file name of a number. The time this takes grows with the folder, not with `count`.
    """
    there = {path.name for path in folder.glob(f"*{Path(name(0)).suffix}")}
    known = {name(int(digits[0])) for digits in map(NUMBER.search, there) if digits and int(digits[0]) < count}
    return there & known, there - known
