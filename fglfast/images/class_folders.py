"""Images in folders: named by their class, PATH/CLASS/... or PATH/SPLIT/CLASS/...; or in any, without labels."""

import unicodedata
from dataclasses import replace
from pathlib import Path

from fglfast.base.console import note
from fglfast.base.errors import BadInputError
from fglfast.base.folders import files_below, is_system, leads_out, subfolders
from fglfast.images.decoding import named_like_an_image
from fglfast.images.folder_names import read_names
from fglfast.images.labelled import UNLABELLED, LabelledImages, Skipped
from fglfast.images.listed import metadata, read_metadata, tables
from fglfast.images.splits import chosen, like_a_split
from fglfast.images.trial import Candidate, offered, verified

SHOWN = 3  # files that a note names
ANYTHING = {"images", "image", "imgs", "img", "pictures", "photos", "data", "raw", "all", "files", "jpg", "jpeg", "png"}
SCANS = (".dcm", ".nii", ".nii.gz")


def read_class_folders(path: Path, split: str | None, source: str) -> LabelledImages:
    """Read a folder of class folders, or one split of it; a table of metadata there says the labels instead.

    Raises:
        BadInputError: it has no such split, or several and none is named.
    """
    if (listed := read_metadata(path, split, source)) is not None:
        return listed
    folder = _split_folder(path, split, source)
    if folder != path and (listed := read_metadata(folder, None, source)) is not None:
        return listed
    classes = subfolders(folder)
    names = read_names(folder, [entry.name for entry in classes])
    labels = {name: label for label, name in enumerate(names)}
    candidates: list[Candidate] = []
    outside: list[Skipped] = []
    for entry in classes:
        found, led_out = _candidates(entry, labels[unicodedata.normalize("NFC", entry.name)], folder)
        candidates += found
        outside += led_out
    if candidates and all(len(Path(name).parts) > 2 for name, _, _ in candidates):
        below = folder / Path(candidates[0][0]).parts[0]
        note(f"{source}: its classes hold no images but folders; if those are the classes, give {below}")
    if len(classes) < 2:
        _doubt(folder, list(names.values()), source)
    images = verified(tuple(names.values()), candidates, source)
    return replace(images, skipped=(*outside, *_damaged(images.skipped)))


def read_image_folder(path: Path, split: str | None, source: str) -> LabelledImages:
    """Read all images of a folder, or of one split of it, however deep they lie; none has a label.

    Raises:
        BadInputError: it has no such split, or several and none is named.
    """
    folder = _split_folder(path, split, source, labelled=False)
    candidates, outside = _candidates(folder, 0, folder)
    images = verified((UNLABELLED,), candidates, source)
    return replace(images, skipped=(*outside, *_damaged(images.skipped)))


def _doubt(folder: Path, names: list[str], source: str) -> None:
    """Say of a folder with one class or none what it may be instead."""
    if unread := tables(folder):
        note(f"{source}: {len(names)} class folders; if {unread[0]} says the classes, give that file")
    elif names and names[0].casefold() in ANYTHING:
        advice = "give each class a folder of its own, or list the images in a CSV of file_name,label"
        note(f"{source}: its only class is called {names[0]!r}; if that is no class, {advice}")


def _damaged(skipped: tuple[Skipped, ...]) -> tuple[Skipped, ...]:
    """Of files that cannot be read as images, those that are named like one; a note tells the others."""
    others = [entry.name for entry in skipped if not named_like_an_image(entry.name)]
    if others:
        more = ", ..." if len(others) > SHOWN else ""
        scans = any(name.lower().endswith(SCANS) for name in others)
        advice = "; save DICOM and NIfTI as PNG or TIFF first, 16 bits are kept" if scans else ""
        note(f"files left out, as they are no images: {len(others)} ({', '.join(others[:SHOWN])}{more}){advice}")
    return tuple(entry for entry in skipped if named_like_an_image(entry.name))


def _candidates(entry: Path, label: int, folder: Path) -> tuple[list[Candidate], list[Skipped]]:
    """What may be an image of a class, and the links that lead out of the data set."""
    return offered(((str(file.relative_to(folder)), label, file) for file in _files(entry, folder)), folder)


def _files(entry: Path, folder: Path) -> list[Path]:
    """The files of a class that somebody put there; of a class that is a link to elsewhere, the link alone."""
    if leads_out(entry, folder):
        return [entry]
    return files_below(entry, folder)


def _split_folder(path: Path, split: str | None, source: str, labelled: bool = True) -> Path:
    """The folder whose folders are the classes; a split may lie within another, as unpacked archives have it."""
    splits = _splits(path, labelled)
    if split is None and not splits:
        return path
    if split is None or not split or not (path / split).is_dir():
        split = chosen(source, splits, split)
    if leads_out(path / split, path):
        raise BadInputError(
            f"{path / split}: a link that leads out of the data set", "give the folder that it leads to"
        )
    return _split_folder(path / split, None, f"{source}/{split}", labelled)


def _splits(path: Path, labelled: bool) -> list[str]:
    """The folders of a folder if they are its splits: named like that, and holding folders, no images.

    A class may be called `test`, or hold folders: it is no split where any folder beside it is none. Without classes a
    split may hold images, and a folder that holds some itself has no splits.
    """
    splits: list[str] = []
    if not labelled and _holds_images(path):
        return splits
    for folder in subfolders(path):
        if leads_out(folder, path):
            continue
        folders, images = bool(subfolders(folder)), _holds_images(folder)
        whole = ((folders and not images) or metadata(folder)) if labelled else (folders or images)
        if like_a_split(folder.name) and whole:
            splits.append(folder.name)
        elif folders or images:
            return []
    return splits


def _holds_images(folder: Path) -> bool:
    return any(named_like_an_image(entry.name) and not is_system(entry.name) for entry in folder.iterdir())
