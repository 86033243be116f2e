"""A user's labelled images, whatever they are stored in.

A data set is named `PATH[:SPLIT]`: a folder of class folders, a table that lists images, an npz, a parquet file or
folder, a folder saved by Hugging Face `datasets`, or `fashion` for the bundled sample.
"""

import os
from dataclasses import replace
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

from fglfast.base.console import note
from fglfast.base.errors import BadInputError
from fglfast.base.names import MAX_CLASS_NAME, unfit
from fglfast.base.wording import many, some
from fglfast.images.class_folders import read_class_folders, read_image_folder
from fglfast.images.labelled import LabelledImages
from fglfast.images.listed import TABLES, read_listed
from fglfast.images.npz import read_npz
from fglfast.images.saved import MARKS, read_saved
from fglfast.images.tables import holds_parquet, read_parquet

BUNDLED = "fashion"
FACTS = "dataset.json"  # of a data set of shards
PACKED = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
NAMED = 3  # skipped images that a note names


def read_dataset(source: str | Path, labelled: bool = True) -> LabelledImages:
    """Read a data set named `PATH[:SPLIT]`.

    A split that is named is exactly its own; of several one must be named; a single one is taken.

    Args:
        source: where it is.
        labelled: whether it has labels; without, those that are there are not read, the images may lie in folders of
            any name, and all are of one class, `UNLABELLED`.

    Raises:
        BadInputError: nothing is there, no split of several is named, its content is refused, or no image can be read.
        MissingExtraError: the folder needs the `datasets` package.
    """
    source = str(source)
    name, path, split = _locate(source)
    if not os.access(path, os.R_OK):
        raise BadInputError(f"{path}: cannot be read", "change its permissions")
    if path.is_dir() and (path / FACTS).is_file() and any(path.glob("train-*.tar")):
        raise BadInputError(
            f"{path}: a data set of shards, as synthesize writes them",
            f"train reads it; for other commands draw it with --format imagefolder, and give {path / 'imagefolder'}",
        )
    suffix = path.suffix.lower()
    if suffix == ".npz":
        found = read_npz(path, split, name, labelled)
    elif suffix == ".parquet" or holds_parquet(path):
        found = read_parquet(path, split, name, labelled)
    elif any((path / mark).is_file() for mark in MARKS):
        found = read_saved(path, split, name, labelled)
    elif path.is_dir():
        found = read_class_folders(path, split, name) if labelled else read_image_folder(path, split, name)
    elif suffix in TABLES:
        found = read_listed(path, split, name, labelled)
    else:
        packed = suffix in PACKED
        hint = "unpack it first" if packed else "give class folders, npz, parquet, or a CSV of file_name,label"
        raise BadInputError(f"{path}: not a kind of data set that is known", hint)
    return _checked(replace(found, source=source))


def _locate(source: str) -> tuple[str, Path, str | None]:
    """The data set as it is named without its split, where it lies, and the split."""
    name, colon, split = source.rpartition(":")
    if not source:
        raise BadInputError("no data set is named: the name is empty", "give PATH[:SPLIT]")
    if BUNDLED in (source, name):
        if Path(BUNDLED).exists():
            note(f"{BUNDLED} is the bundled sample; your own is ./{BUNDLED}")
        return BUNDLED, Path(str(files("fglfast") / "assets" / "fashion.npz")), split if colon else None
    if Path(source).exists():
        return source, Path(source), None
    if name and Path(name).exists():
        return name, Path(name), split
    parent = Path(source).parent
    close = get_close_matches(Path(source).name, [p.name for p in parent.iterdir()] if parent.is_dir() else [], n=1)
    hint = f"did you mean {parent / close[0]}?" if close else f"check the path; {BUNDLED}:private is the bundled sample"
    raise BadInputError(f"{source}: no such data set", hint)


def _checked(found: LabelledImages) -> LabelledImages:
    """Refuse what no stage could use; name what was left out."""
    for name in found.class_names:
        if problem := unfit(name) or (f"over {MAX_CLASS_NAME} characters" if len(name) > MAX_CLASS_NAME else ""):
            raise BadInputError(f"{found.source}: class name {name[:40]!r} cannot be used ({problem})", "rename it")
    if len(set(found.class_names)) < len(found.class_names):
        raise BadInputError(f"{found.source}: two classes have one name", "rename one of them")
    if found.skipped:
        named = some([f"{entry.name} ({entry.reason})" for entry in found.skipped], NAMED)
        note(f"skipped {len(found.skipped)} of {many(len(found) + len(found.skipped), 'image')}: {named}")
    if not len(found):
        raise BadInputError(f"{found.source}: no image can be read", "give folders named by class with images in them")
    if found.labels.min() < 0 or found.labels.max() >= len(found.class_names):
        raise BadInputError(
            f"{found.source}: labels reach outside the {many(len(found.class_names), 'class')}", "correct the labels"
        )
    empty = [name for name, count in zip(found.class_names, found.counts(), strict=True) if not count]
    if empty:
        note(f"{found.source}: no image of {many(len(empty), 'class')}: {some(empty)}")
    return found
