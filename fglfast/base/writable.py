"""Where a command may write: refused before any work is done for it, so that what somebody has there stays."""

import os
import re
from pathlib import Path

from fglfast.base.errors import UsageError

# How files begin that a command may write over: its own, as far as their kind has room to say whose they are.
BEGINNINGS = {
    "payload": re.compile(rb'.{8}\{"__metadata__":\{.*"fglfast"', re.DOTALL),
    "inventory": re.compile(rb'.{8}\{"__metadata__":\{.*"fglfast-inventory"', re.DOTALL),
    "recipe of fglfast": re.compile(rb"# Written by fglfast"),
    "result of fglfast bench": re.compile(rb'\{\s*"model":.*"ceilings":', re.DOTALL),
    "page of fglfast": re.compile(rb"\s*<!doctype html>.*<title>fglfast", re.DOTALL),
    "picture of fglfast": re.compile(rb"\x89PNG.*fglfast", re.DOTALL),
}
MOST_BEGINNING = 1 << 12  # bytes that are looked at
CARD, OURS, MOST_CARD = "README.md", b" by fglfast", 1 << 16  # what each card's title ends in; bytes that are read


def usable_folder(out: Path) -> None:
    """Refuse a folder that cannot be made or written to, before any work is done for it; makes nothing itself.

    Raises:
        UsageError: a file is there, or the folder cannot be made or written to.
    """
    if os.path.lexists(out) and not out.is_dir():
        raise UsageError(f"{out}: a file is there", "give the name of a folder")
    _check_place(out, existing(out))


def free_for(folder: Path, *marks: str) -> None:
    """As `usable_folder`, for runs that give their files names which others may have given theirs.

    Runs of its kind leave one of the marks before anything else.

    Raises:
        UsageError: as `usable_folder`, or it is somebody's own: files are there, and none of the marks.
    """
    usable_folder(folder)
    others = folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())
    if others and not any((folder / mark).exists() for mark in marks):
        raise UsageError(f"{folder}: holds other files, and no {marks[0]}", "choose another folder, so that they stay")


def check_card(folder: Path) -> None:
    """Refuse a folder whose README.md is somebody's own, where a card of ours would take its place.

    Raises:
        UsageError: it is.
    """
    path = folder / CARD
    if path.is_file() and OURS not in _beginning(path, MOST_CARD):
        raise UsageError(f"{folder}: holds a {CARD} of its own", "choose another --out, so that it stays")


def usable_file(out: Path, kind: str) -> None:
    """As `usable_folder`, for a file; one that is there is replaced by its own kind of `BEGINNINGS` alone.

    Raises:
        UsageError: a folder, a link, a pipe, a device or a file of another kind is there, or it cannot be written.
    """
    if out.is_dir():
        raise UsageError(f"{out}: a folder is there", "give the name of a file")
    if out.is_symlink() or (out.exists() and not out.is_file()):
        raise UsageError(
            f"{out}: is there, and is a link, a pipe or a device", "choose another name: it would be replaced"
        )
    _check_place(out, existing(out.absolute().parent))
    if out.is_file() and (beginning := _beginning(out, MOST_BEGINNING)) and not BEGINNINGS[kind].match(beginning):
        raise UsageError(f"{out}: is there, and is no {kind}", "choose another name, so that it stays, or delete it")


def _beginning(path: Path, most: int) -> bytes:
    with path.open("rb") as stream:
        return stream.read(most)


def _check_place(out: Path, place: Path) -> None:
    if not place.is_dir():
        raise UsageError(f"{out}: cannot be made, as {place} is a file", "choose another --out")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UsageError(f"{out}: no permission to write to {place}", "choose another --out, or change its permissions")


def existing(path: Path) -> Path:
    """The path if it exists, else the nearest folder above it that does."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if os.path.lexists(place))
