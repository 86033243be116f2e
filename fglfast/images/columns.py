"""The columns `image` and `label` of a table."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from fglfast.base.errors import BadInputError
from fglfast.base.folders import is_system, leads_out
from fglfast.base.names import MAX_CLASSES
from fglfast.images.labelled import Opener
from fglfast.images.trial import bytes_opener, file_opener

COLUMNS = ("image", "label")  # the second, where images have labels


def image_openers(cells: Sequence[Any], path: Path, folder: Path | None) -> list[Opener]:
    """How the images of a column are opened: bytes, or `{"bytes": ..., "path": ...}` as `datasets` writes them.

    A cell without bytes may name a file below the data set's folder, and no other: a table may come from anybody, and
    a file of a data set that is a table alone may lie among pictures that were never meant.

    Args:
        cells: the column.
        path: the table.
        folder: the data set's folder, if it is one.

    Raises:
        BadInputError: it holds paths alone, and none of them is a file there.
    """
    openers = [_opener(cell, path.parent, folder) for cell in cells]
    lost = [place for cell, opener in zip(cells, openers, strict=True) if not opener and (place := _place(cell))]
    if lost and not any(openers):
        raise BadInputError(
            f"{path}: holds paths or other text instead of images, the first {lost[0][:80]!r}, and none a file of the "
            "data set",
            "if those are paths, write the table with embed_external_files=True, or put the files under them into one "
            "folder with it, and give that folder; if they are base64, decode them to bytes",
        )
    return [opener or _missing(_place(cell)) for cell, opener in zip(cells, openers, strict=True)]


def _opener(cell: Any, beside: Path, folder: Path | None) -> Opener | None:
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if isinstance(content, bytes):
        return bytes_opener(content)
    place = _place(cell)
    if folder is None or not place or PurePath(place).is_absolute() or any(map(is_system, PurePath(place).parts)):
        return None
    roots = (folder, beside)
    files = (root / place for root in roots if os.path.isfile(root / place))  # noqa: PTH113 (raises of no odd name)
    return next((file_opener(file) for file in files if not leads_out(file, folder)), None)


def _place(cell: Any) -> str:
    place = cell.get("path") if isinstance(cell, dict) else cell
    return place if isinstance(place, str) else ""


def _missing(place: str) -> Opener:
    def opened() -> Any:
        raise ValueError(f"not in the table, and {place[:80]!r} is no file of the data set" if place else "no image")

    return opened


def numbered(
    parts: Sequence[tuple[Sequence[Any], Sequence[str] | None]], path: Path
) -> tuple[tuple[str, ...], list[int]]:
    """Class names and labels of a label column that comes in parts, each in its own numbers.

    Args:
        parts: labels and the names that a part declares for its numbers: `datasets` does so in every file. Numbers
            without names are their own names, strings name themselves.
        path: the table, for messages.

    Raises:
        BadInputError: labels are neither integers nor strings, out of range, or named in some parts only.
    """
    texts = {value for values, _ in parts for value in values if isinstance(value, str)}
    bare = [value for values, names in parts if not names for value in values if not isinstance(value, str)]
    if not all(isinstance(value, int) for values, _ in parts for value in values if not isinstance(value, str)):
        row, kind = next(
            (row, type(value).__name__)
            for values, _ in parts
            for row, value in enumerate(values)
            if not isinstance(value, str | int)
        )
        what = "has no label" if kind == "NoneType" else f"has a label of type {kind}"
        raise BadInputError(f"{path}: row {row} {what}; labels are integers or text", "leave the row out, or mend it")
    if any(names and len(set(names)) < len(names) for _, names in parts):
        raise BadInputError(f"{path}: two classes have one name", "rename one of them")
    declared = dict.fromkeys(name for _, names in parts for name in names or ())
    if bare and (texts or declared):
        raise BadInputError(f"{path}: column label names its classes in some parts only", "write it anew in one form")
    if bare:
        return counted(max(bare) + 1, path), bare
    order = [*declared, *sorted(texts - declared.keys())]
    places = {name: place for place, name in enumerate(order)}
    return tuple(order), [places[name] for values, names in parts for name in _called(values, names or (), path)]


def _called(values: Sequence[Any], names: Sequence[str], path: Path) -> list[str]:
    """The names of the classes of labels."""
    wrong = [value for value in values if not isinstance(value, str) and not 0 <= value < len(names)]
    if wrong:
        hint = "leave out the rows without a label" if wrong[0] == -1 else "correct the labels"
        raise BadInputError(f"{path}: label {wrong[0]}, but there are {len(names)} classes", hint)
    return [value if isinstance(value, str) else names[value] for value in values]


def counted(classes: int, path: Path) -> tuple[str, ...]:
    """Names of classes that have none but their number.

    Raises:
        BadInputError: they are too many.
    """
    if classes > MAX_CLASSES:
        raise BadInputError(
            f"{path}: label {classes - 1}: at most {MAX_CLASSES} classes are read, numbered from 0",
            "if the labels are codes, write them as text: they are names then",
        )
    return tuple(map(str, range(classes)))
