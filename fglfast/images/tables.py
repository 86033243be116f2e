"""Images of parquet files with columns `image` and `label`, as `datasets` and the Hub write them."""

import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from fglfast.base.console import note
from fglfast.base.errors import BadInputError, MissingExtraError
from fglfast.base.folders import is_system, subfolders
from fglfast.base.limits import check_memory
from fglfast.base.untrusted import json_object, loading
from fglfast.base.wording import some
from fglfast.images.columns import COLUMNS, image_openers, numbered
from fglfast.images.decoding import any_image, named_like_an_image
from fglfast.images.labelled import UNLABELLED, LabelledImages
from fglfast.images.splits import chosen, is_fold, like_a_split
from fglfast.images.trial import verified

ROWS = 256  # read at once
DEPTHS = ("*.parquet", "*/*.parquet", "*/*/*.parquet")  # the Hub's: none, data/, CONFIG/ or CONFIG/SPLIT/
HUB_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})(-[0-9a-f]+)?")
PART = re.compile(r"[-_.](?!(?:19|20)\d\d$)\d+$")  # a number that is no year
METADATA_TABLE = "metadata.parquet"  # beside images: https://huggingface.co/docs/datasets/image_dataset

SHOWN = 3  # missing parts that a message names

Column = list[Any]


def parquet_files(folder: Path) -> list[Path]:
    """The parquet files of a folder as the Hub lays them out, by name."""
    found = sorted(path for pattern in DEPTHS for path in folder.glob(pattern))
    return [
        path
        for path in found
        if path.is_file() and path.name != METADATA_TABLE and not any(map(is_system, path.relative_to(folder).parts))
    ]


def holds_parquet(folder: Path) -> bool:
    """Whether a folder's images are in parquet files: beside or in `data/`; deeper ones only where no image lies."""
    files = parquet_files(folder)
    near = any(file.parent in (folder, folder / "data") for file in files)
    return near or (bool(files) and not any(named_like_an_image(path.name) for path in folder.rglob("*")))


def read_parquet(path: Path, split: str | None, source: str, labelled: bool = True) -> LabelledImages:
    """Read a parquet file, or one split of a folder of them; unlabelled, its images alone.

    Raises:
        BadInputError: it is none, has no such split or several and none is named, or lacks a column.
        MissingExtraError: pyarrow is not installed.
    """
    splits = _splits([path], path.parent) if path.is_file() else _splits(parquet_files(path), path)
    paths = splits[chosen(source, list(splits), split)]
    _check_parts(paths, source)
    if path.is_dir() and (beside := _folders_beside(path, paths)):
        note(f"{source}: read from {paths[0]}; the images of {some(beside)} are left out")
    tables = [_read(part, labelled) for part in paths]
    openers = [
        opener
        for part, (images, _, _) in zip(paths, tables, strict=True)
        for opener in image_openers(images, part, path if path.is_dir() else None)
    ]
    names, labels = numbered([(labels, declared) for _, labels, declared in tables], path)
    rows = zip(labels, openers, strict=True)
    candidates = [(f"row {row}", label, opener) for row, (label, opener) in enumerate(rows)]
    return verified(names, candidates, source)


def _check_parts(files: list[Path], source: str) -> None:
    """Say which parts are missing, as of an unfinished download; refuse one that is there twice."""
    names = [found for file in files if (found := HUB_NAME.fullmatch(file.stem))]
    for count in {int(name[3]) for name in names}:
        there = Counter(int(name[2]) for name in names if int(name[3]) == count)
        missing, twice = sorted(set(range(count)) - there.keys()), [part for part, times in there.items() if times > 1]
        if twice:
            raise BadInputError(f"{source}: part {twice[0]} of {count} is there twice", "delete the older one")
        if missing:
            note(
                f"{source}: of {count} parts {len(missing)} are not there ({some(missing, SHOWN)}); the others are read"
            )


def _folders_beside(folder: Path, files: list[Path]) -> list[str]:
    """Folders of images that no parquet file lies in."""
    used = {file.relative_to(folder).parts[0] for file in files}
    return [entry.name for entry in subfolders(folder) if entry.name not in used and any_image(entry)]


def _read(path: Path, labelled: bool) -> tuple[Column, Column, list[str] | None]:
    """The columns of a file, and the class names that it declares."""
    columns: dict[str, Column] = {name: [] for name in (COLUMNS if labelled else COLUMNS[:1])}
    with loading(path, "check the file"):
        file = _opened(path)
        if not columns.keys() <= set(file.schema_arrow.names):
            there = ", ".join(file.schema_arrow.names)
            raise BadInputError(f"{path}: columns are {there}", f"need {' and '.join(columns)}")
        groups = range(file.metadata.num_row_groups)
        check_memory(sum(file.metadata.row_group(group).total_byte_size for group in groups), str(path))
        for batch in file.iter_batches(ROWS, columns=list(columns)):
            check_memory(batch.nbytes, str(path))  # short columns may spread to more than their file announces
            for name, values in columns.items():
                values += batch.column(name).to_pylist()
        if not labelled:
            return columns["image"], [UNLABELLED] * len(columns["image"]), None
        return columns["image"], columns["label"], _declared(file.schema_arrow.metadata or {})


def _declared(metadata: dict[bytes, bytes]) -> list[str] | None:
    """Class names as the datasets package leaves them in a table's metadata."""
    found: Any = json_object(metadata.get(b"huggingface", b"{}"))
    for key in ("info", "features", "label", "names"):
        found = found.get(key) if isinstance(found, dict) else None
    named = isinstance(found, list) and all(isinstance(name, str) for name in found)
    return found if named else None


def column_names(path: Path) -> list[str]:
    """The columns of a parquet file.

    Raises:
        BadInputError: it is none.
        MissingExtraError: pyarrow is not installed.
    """
    with loading(path, "check the file"):
        names: list[str] = _opened(path).schema_arrow.names
    return names


def _opened(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{path}: parquet files need pyarrow", "pip install pyarrow") from error
    return pyarrow.parquet.ParquetFile(path)


def _splits(files: list[Path], root: Path) -> dict[str, list[Path]]:
    """The files of each split; those of several configurations are named CONFIG/SPLIT."""
    named = {file: _named(file.relative_to(root)) for file in files}
    alone = len({config for config, _ in named.values()}) == 1
    mixed = any(split for _, split in named.values())  # then a file that names none is one of its own
    splits = defaultdict(list)
    for file, (config, split) in named.items():
        own = split or (file.stem if mixed or config else "")
        splits[own if alone else f"{config}/{own}".strip("/")].append(file)
    return dict(splits)


def _named(file: Path) -> tuple[str, str]:
    """Configuration and split of a file by its path: `train-00000-of-00001`, `test-0`, `train/0000`."""
    folders = [name for name in file.parts[:-1] if name != "data"]
    if hub := HUB_NAME.fullmatch(file.stem):
        return "/".join(folders), hub[1]
    if like_a_split(file.stem):
        return "/".join(folders), file.stem if is_fold(file.stem) else PART.sub("", file.stem)
    split = folders.pop().removesuffix(".parquet") if folders and like_a_split(folders[-1]) else ""
    return "/".join(folders), split
