"""Images that a table lists, with the label of each: `metadata.csv` or `.jsonl`, as the Hub has them, or any such file.

The table lies in the folder of the images, or above it; what it does not list is no image of the data set.
"""

import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from fglfast.base.console import note
from fglfast.base.errors import BadInputError
from fglfast.base.folders import files_below, is_system
from fglfast.base.wording import many, some
from fglfast.images.columns import numbered
from fglfast.images.decoding import named_like_an_image
from fglfast.images.entries import Form, declares, is_whole, plain_name, read_entries
from fglfast.images.labelled import UNLABELLED, LabelledImages, Skipped
from fglfast.images.splits import chosen, like_a_split
from fglfast.images.tables import METADATA_TABLE, column_names
from fglfast.images.trial import offered, verified

TABLES = (".csv", ".tsv", ".jsonl", ".json")
# Beside images: https://huggingface.co/docs/datasets/image_dataset
METADATA = ("metadata.csv", "metadata.jsonl", METADATA_TABLE)
FORM = Form(
    ("file_name",),
    ("label",),
    "give each line file_name, the path from the table's folder, and label; also split",
    ("split",),
)
SHOWN = 3  # files that a note names
# A number of a class: 007 is a name, and tables of numbers with gaps have 1.0 for 1.
WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})(\.0+)?")


@dataclass(frozen=True)
class Listed:
    """One image as its table has it.

    Attributes:
        name: path from the table's folder.
        label: the name of its class, or its number.
        split: that it belongs to; empty where no column says so.
    """

    name: str
    label: str | int
    split: str


def metadata(folder: Path) -> Path | None:
    """The table in a folder that says the labels of its images, if there is one.

    Raises:
        BadInputError: one is there that cannot be read.
        MissingExtraError: it is of parquet, and pyarrow is not installed.
    """
    files = (path for path in sorted(folder.iterdir()) if path.name.lower() in METADATA and path.is_file())
    there = {path.name.lower(): path for path in files}
    return next((there[name] for name in METADATA if name in there and _says_labels(there[name])), None)


def _says_labels(path: Path) -> bool:
    """Whether a table of metadata says labels; one of parquet that does is refused."""
    if path.suffix.lower() != ".parquet":
        return declares(path, FORM)
    if FORM.fits(map(str.lower, column_names(path))):
        raise BadInputError(
            f"{path}: lists images and their labels, and is read as text alone",
            "save it as metadata.csv beside it, with the names of the classes as labels",
        )
    return False


def tables(folder: Path) -> list[Path]:
    """The spreadsheets of a folder, which may say the labels of its images."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in TABLES[:2] and not is_system(path.name))


def read_metadata(folder: Path, split: str | None, source: str) -> LabelledImages | None:
    """Read the images of a folder by its table of metadata; None if it has none that says labels."""
    table = metadata(folder)
    if table is None:
        return None
    note(f"{table}: says the labels")
    return read_listed(table, split, source)


def read_listed(path: Path, split: str | None, source: str, labelled: bool = True) -> LabelledImages:
    """Read the images that a table lists, or one split of them.

    The splits are those of a column `split`, else of the folders that hold all images, where those are named like that.

    Raises:
        BadInputError: the table is refused, has no such split or several and none is named, or lists no file.
    """
    every = _listed(path, labelled)
    splits = defaultdict[str, list[Listed]](list)
    for one in every:
        splits[one.split].append(one)
    listed = splits[chosen(source, list(splits), split)]
    plain = [_label(one.label) for one in listed]
    whole = all(isinstance(label, int) for label in plain)
    names, labels = numbered([(plain if whole else [str(one.label) for one in listed], None)], path)
    there = {plain_name(str(file.relative_to(path.parent))): file for file in files_below(path.parent, path.parent)}
    lost = [Skipped(one.name, "listed, and no file of the table's folder") for one in listed if one.name not in there]
    found = zip(listed, labels, strict=True)
    files = ((one.name, label, there[one.name]) for one, label in found if one.name in there)
    candidates, outside = offered(files, path.parent)
    lost += outside
    if lost and not candidates:
        what = f"{path}: lists {many(len(lost), 'image')}, none a file of its folder, the first {lost[0].name[:80]!r}"
        raise BadInputError(what, _astray(lost[0].name, path.parent))
    others = [name for name in there.keys() - {one.name for one in every} if named_like_an_image(name)]
    if others:
        note(f"{path}: left out, as no line lists them: {many(len(others), 'image')}, {some(sorted(others), SHOWN)}")
    images = verified(names, candidates, source)
    return replace(images, skipped=(*lost, *images.skipped))


def _listed(path: Path, labelled: bool) -> list[Listed]:
    form = FORM if labelled else replace(FORM, facts=FORM.names)
    found = dict[str, Listed]()
    entries = [(where, entry, _name(entry, f"{path}: {where}")) for where, entry in read_entries(path, form)]
    folders = {PurePosixPath(name).parts[0] for _, _, name in entries}
    by_folder = all("/" in name for _, _, name in entries) and all(map(like_a_split, folders))
    for where, entry, name in entries:
        if name in found:
            raise BadInputError(f"{path}: {where}: {name} is there twice", "keep one line an image")
        label = _said(entry.get("label"), f"{path}: {where}: {name}") if labelled else UNLABELLED
        own = PurePosixPath(name).parts[0] if by_folder else ""
        split = entry.get("split")
        said = "" if split is None else str(split).strip()
        found[name] = Listed(name, label, said or own)
    if not found:
        raise BadInputError(f"{path}: lists no image", FORM.hint)
    return list(found.values())


def _name(entry: Mapping[str, Any], where: str) -> str:
    name = entry.get("file_name")
    if not isinstance(name, str) or not PurePosixPath(name).name:
        raise BadInputError(f"{where}: names no image", FORM.hint)
    return plain_name(name)


def _said(label: Any, where: str) -> str | int:
    """The label of an entry as it stands there; a float that is whole as a table of text has it."""
    if label is None or (isinstance(label, str) and not label.strip()):
        raise BadInputError(f"{where} has no label", FORM.hint)
    if isinstance(label, int):
        return label
    if not isinstance(label, str) and not is_whole(label):
        kind = type(label).__name__
        raise BadInputError(f"{where} has a label of type {kind}; labels are integers or text", "write one of those")
    return str(label).strip()


def _label(label: str | int) -> str | int:
    """A number of a class where it is one, written as people and their libraries do."""
    if isinstance(label, str) and WHOLE.fullmatch(label):
        return int(label.partition(".")[0])
    return label


def _astray(name: str, folder: Path) -> str:
    """How to mend a name that is none of the files of a table's folder, where it leads to a file all the same."""
    if not os.path.isfile(folder / name):  # noqa: PTH113 (raises of no odd name)
        return FORM.hint
    real, root = Path(os.path.realpath(folder / name)), os.path.realpath(folder)
    if real.is_relative_to(root):
        own = real.relative_to(root).as_posix()
        return FORM.hint if own == name else f"write {own[:80]!r}, the path from the table's folder"
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        return "put the table into a folder that holds its images, and write the paths from there"
    return "links that lead out of the table's folder are not followed: put the files themselves there"
