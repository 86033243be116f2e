"""Images in folders: named by their class, PATH/CLASS/... or PATH/SPLIT/CLASS/...; or in any, without labels."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fglfast.base.console import note
from fglfast.base.errors import BadInputError
from fglfast.base.folders import files_below, is_system, leads_out, subfolders
from fglfast.base.wording import many, some
from fglfast.images.decoding import any_image, named_like_an_image
from fglfast.images.folder_names import read_names
from fglfast.images.labelled import UNLABELLED, LabelledImages, Skipped
from fglfast.images.listed import METADATA, metadata, read_metadata, tables
from fglfast.images.splits import chosen, like_a_split
from fglfast.images.trial import Candidate, offered, verified

SHOWN = 3  # files that a note names
ANYTHING = {"images", "image", "imgs", "img", "pictures", "photos", "data", "raw", "all", "files", "jpg", "jpeg", "png"}
UNREAD = {
    (".dcm", ".nii", ".nii.gz"): "; save DICOM and NIfTI as PNG or TIFF first, 16 bits are kept",
    (".heic", ".heif", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".svg"): "; save HEIC, raw and SVG as JPEG or PNG first",
}


def read_class_folders(path: Path, split: str | None, source: str) -> LabelledImages:
    """Read a folder of class folders, or one split of it; a table of metadata there says the labels instead.

    Raises:
        BadInputError: it has no such split, or several and none is named, or a table within its folders says labels.
    """
    if (listed := read_metadata(path, split, source)) is not None:
        return listed
    folder = _split_folder(path, split, source)
    if folder != path and (listed := read_metadata(folder, None, source)) is not None:
        return listed
    classes = subfolders(folder)
    names = read_names(folder, [entry.name for entry in classes])
    labels = {name: label for label, name in enumerate(names)}
    files = (  # of a class that is a link to elsewhere, the link alone
        (str(file.relative_to(folder)), labels[unicodedata.normalize("NFC", entry.name)], file)
        for entry in classes
        for file in ([entry] if leads_out(entry, folder) else files_below(entry, folder))
    )
    candidates, outside = offered(files, folder)
    _refuse_tables(folder, candidates)
    images = verified(tuple(names.values()), candidates, source)
    _doubt(folder, images, source)
    return replace(images, skipped=(*outside, *_damaged(images.skipped)))


def read_image_folder(path: Path, split: str | None, source: str) -> LabelledImages:
    """Read all images of a folder, or of one split of it, however deep they lie; none has a label.

    Raises:
        BadInputError: it has no such split, or several and none is named.
    """
    folder = _split_folder(path, split, source, labelled=False)
    files = ((str(file.relative_to(folder)), 0, file) for file in files_below(folder, folder))
    candidates, outside = offered(files, folder)
    images = verified((UNLABELLED,), candidates, source)
    return replace(images, skipped=(*outside, *_damaged(images.skipped)))


def _refuse_tables(folder: Path, candidates: Sequence[Candidate]) -> None:
    """Refuse metadata within the class folders that says labels: theirs are not the classes then."""
    for parent in dict.fromkeys((folder / name).parent for name, *_ in candidates if name.lower().endswith(METADATA)):
        if table := metadata(parent):
            raise BadInputError(
                f"{table}: says labels, and the folders' names would be the classes",
                f"give that file, or put one of all images into {folder}; delete it if the folders are the classes",
            )


def _doubt(folder: Path, images: LabelledImages, source: str) -> None:
    """Say what a folder may be instead, where its classes may be none, and what of it was not read."""
    names = images.class_names
    advice = "give each class a folder of its own, or list the images in a CSV of file_name,label"
    if below := _folders_alone(folder, images):
        note(f"{source}: {below.name!r} holds no images but folders; if those are the classes, give {below}")
    if (len(names) < 2 or all(map(like_a_split, names))) and (unread := tables(folder)):
        note(f"{source}: {many(len(names), 'class folder')}; if {unread[0]} says the classes, give that file")
    elif names and all(map(like_a_split, names)):
        note(f"{source}: its classes are called {some(names)}; if those are its splits, {advice}, in each of them")
    elif len(names) == 1 and names[0].casefold() in ANYTHING:
        note(f"{source}: its only class is called {names[0]!r}; if that is no class, {advice}")
    if loose := _loose(folder):
        note(f"{source}: left out beside the class folders: {many(len(loose), 'image')}, {some(loose, SHOWN)}")


def _folders_alone(folder: Path, images: LabelledImages) -> Path | None:
    """The class folder that seems to hold the classes: all hold nothing but folders, or it does and is like a split."""
    flat, deep = set[str](), dict[str, None]()
    for name in images.names:
        own, *between = Path(name).parts[:-1]
        if between:
            deep[own] = None
        else:
            flat.add(own)
    found = [own for own in deep if own not in flat and (not flat or like_a_split(own))]
    return folder / found[0] if found else None


def _loose(folder: Path) -> list[str]:
    names = (entry.name for entry in folder.iterdir() if entry.is_file() and not is_system(entry.name))
    return sorted(name for name in names if named_like_an_image(name))


def _damaged(skipped: tuple[Skipped, ...]) -> tuple[Skipped, ...]:
    """Of files that cannot be read as images, those that are named like one; a note tells the others."""
    others = [entry.name for entry in skipped if not named_like_an_image(entry.name)]
    if others:
        advice = "".join(words for ends, words in UNREAD.items() if any(name.lower().endswith(ends) for name in others))
        note(f"files left out, as they are no images: {len(others)} ({some(others, SHOWN)}){advice}")
    return tuple(entry for entry in skipped if named_like_an_image(entry.name))


def _split_folder(path: Path, split: str | None, source: str, labelled: bool = True) -> Path:
    """The folder whose folders are the classes; a split may lie within another, as unpacked archives have it."""
    if not split or not (path / split).is_dir():
        splits = _class_splits(path) if labelled else _image_splits(path)
        if split is None and not splits:
            return path
        _refer(path, split)
        split = chosen(source, splits, split)
    if leads_out(path / split, path):
        raise BadInputError(
            f"{path / split}: a link that leads out of the data set", "give the folder that it leads to"
        )
    return _split_folder(path / split, None, f"{source}/{split}", labelled)


def _refer(path: Path, split: str | None) -> None:
    """Refuse a split that lies a folder deeper, as in an archive unpacked into a folder of its own."""
    for folder in subfolders(path):
        if split and split in _class_splits(folder):
            raise BadInputError(f"{path}: no split named {split!r}", f"give {folder}:{split}")


def _class_splits(path: Path) -> list[str]:
    """The folders of a folder if they are its splits: named like that, with folders of images in some of them.

    A class may be called `test`, or hold folders: it is no split where a folder beside it is none, unless two are named
    like splits and hold folders of one name.
    """
    folders = [folder for folder in subfolders(path) if not leads_out(folder, path)]
    if not any(like_a_split(folder.name) for folder in folders):
        return []  # without a look into a thousand classes
    holding = [folder for folder in folders if any_image(folder) or metadata(folder)]
    like = [folder for folder in holding if like_a_split(folder.name)]
    inner = {folder: {entry.name for entry in subfolders(folder) if any_image(entry)} for folder in like}
    whole = any(inner[folder] or metadata(folder) for folder in like)
    shared = Counter(name for names in inner.values() for name in names)
    sure = len(like) == len(holding) or max(shared.values(), default=0) > 1
    return [folder.name for folder in like] if whole and sure else []


def _image_splits(path: Path) -> list[str]:
    """As `_class_splits`, where no folder is a class: a folder that holds images itself has no splits."""
    if any(named_like_an_image(entry.name) and not is_system(entry.name) for entry in path.iterdir()):
        return []
    holding = [folder.name for folder in subfolders(path) if not leads_out(folder, path) and any_image(folder)]
    return holding if all(map(like_a_split, holding)) else []
