"""The columns `image` and `label` of a table."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence, Set
from functools import partial
from pathlib import Path, PurePath
from types import NoneType
from typing import Any

from fglfast.base.console import note
from fglfast.base.errors import BadInputError
from fglfast.base.folders import is_system, leads_out
from fglfast.base.names import MAX_CLASSES
from fglfast.base.wording import some
from fglfast.images.decoding import decoded
from fglfast.images.labelled import Opener
from fglfast.images.trial import file_opener

FIELDS = {"bytes", "path"}  # of an image as `datasets` writes it
COLUMNS = ("image", "label")  # the second, where images have labels
MISSING = {"NA", "N/A", "n/a", "<NA>", "NaN", "nan", "NULL", "null", "None"}  # R's and pandas' words for no label
NUMBER = re.compile(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?")


def image_openers(cells: Sequence[Any], path: Path, folder: Path | None) -> list[Opener]:
    """How the images of a column are opened: bytes, or `{"bytes": ..., "path": ...}` as `datasets` writes them.

    A cell without bytes may name a file below the data set's folder, and no other: a table may come from anybody, and
    a file of a data set that is a table alone, and no folder, may lie among pictures that were never meant.

    Raises:
        BadInputError: it holds paths alone, and none of them is a file there, or what is neither path nor image.
    """
    _check_cells(cells, path)
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


def _check_cells(cells: Sequence[Any], path: Path) -> None:
    """Refuse a column of what no image is: arrays, lists of images, numbers."""
    known = (bytes, str, NoneType)
    cell = next((cell for cell in cells if not isinstance(cell, known) and not _is_image(cell)), None)
    if cell is None:
        return
    kind = ""
    while isinstance(cell, list) and cell:
        kind, cell = f"{kind}list of ", cell[0]
    kind += "image" if _is_image(cell) else type(cell).__name__
    cast = "cast it with cast_column('image', datasets.Image()) before to_parquet, or give what save_to_disk leaves"
    hint = "write one image a row" if _is_image(cell) else cast
    raise BadInputError(f"{path}: column image is of type {kind[-80:]}, which is not read", hint)


def _is_image(cell: Any) -> bool:
    return isinstance(cell, dict) and not FIELDS.isdisjoint(cell)


def _opener(cell: Any, beside: Path, folder: Path | None) -> Opener | None:
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if isinstance(content, bytes):
        return partial(decoded, content)
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

    A part has labels and the names that it declares for its numbers: `datasets` does so in every file. Numbers without
    names are their own names, strings name themselves.

    Raises:
        BadInputError: labels are missing, neither integers nor strings, out of range, or named in some parts only; two
            classes have one name.
    """
    _check_kinds([values for values, _ in parts], path)
    plain = plain_names([names or () for _, names in parts], path)
    texts = {plain(value) for values, _ in parts for value in values if isinstance(value, str)}
    bare = [value for values, names in parts if not names for value in values if not isinstance(value, str)]
    declared = dict.fromkeys(plain(name) for _, names in parts for name in names or ())
    if bare and (texts or declared):
        raise BadInputError(f"{path}: column label names its classes in some parts only", "write it anew in one form")
    if bare:
        own = counted(max(bare) + 1, path)
        check_range(bare, len(own), path)
        return own, bare
    _check_missing(texts - declared.keys(), path)
    order = [*declared, *sorted(texts - declared.keys())]
    places = {name: place for place, name in enumerate(order)}
    return tuple(order), [places[plain(name)] for values, names in parts for name in _called(values, names or (), path)]


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()


def plain_names(
    lists: Sequence[Sequence[str]], path: Path, plain: Callable[[str], str] = _plain
) -> Callable[[str], str]:
    """How the names of classes are written: as class folders are (NFC), and by default without spaces around them.

    A file may declare two classes together whose names would then be one: those stay, and a note names them.

    Raises:
        BadInputError: a name is declared twice.
    """
    if any(len(set(names)) < len(names) for names in lists):
        raise BadInputError(f"{path}: two classes have one name", "rename one of them")
    alike = set[str]()
    for names in lists:
        often = Counter(map(plain, names))
        alike.update(name for name in names if often[plain(name)] > 1)
    if alike:
        named = some([ascii(name) for name in sorted(alike)])
        note(f"{path}: names of classes that differ only in how they are written stay apart: {named}")
    return lambda name: name if name in alike else plain(name)


def check_any(labels: Sequence[Any], path: Path) -> None:
    """Refuse labels that are all missing: the Hub has -1 where those of a test are secret.

    Raises:
        BadInputError: they are.
    """
    if labels and all(label is None or label == -1 for label in labels):
        raise BadInputError(f"{path}: no image has a label", "give a split that has labels")


def check_range(labels: Sequence[int], classes: int, path: Path) -> None:
    """Refuse a label that is the number of no class.

    Raises:
        BadInputError: there is one.
    """
    wrong = next((label for label in labels if not 0 <= label < classes), None)
    if wrong is not None:
        hint = "leave out the rows without a label" if wrong == -1 else "correct the labels"
        raise BadInputError(f"{path}: label {wrong}, but there are {classes} classes", hint)


def _check_missing(texts: Set[str], path: Path) -> None:
    """Refuse words for a missing label where all others are numbers; where they are names, ask in a note.

    Raises:
        BadInputError: there is one.
    """
    said = sorted(texts & MISSING)
    others = texts - MISSING
    if said and others and all(map(NUMBER.fullmatch, others)):
        what = f"{path}: label {said[0]!r} among numbers stands for a missing one"
        raise BadInputError(what, "leave out the rows without a label, or rename the class if it is one")
    if said:
        note(f"{path}: class {some(list(map(repr, said)))}: is it a missing label? if so, leave out its rows")


def _check_kinds(parts: Sequence[Sequence[Any]], path: Path) -> None:
    """Refuse labels that are neither integers nor text."""
    check_any([value for values in parts for value in values], path)
    for number, values in enumerate(parts, start=1):
        odd = next((row for row, value in enumerate(values) if not isinstance(value, str | int)), None)
        if odd is not None:
            kind = type(values[odd]).__name__
            what = "has no label" if kind == "NoneType" else f"has a label of type {kind}"
            where = f"file {number} of {len(parts)} by name, row {odd}" if len(parts) > 1 else f"row {odd}"
            hint = "leave the row out, or mend it"
            raise BadInputError(f"{path}: {where} {what}; labels are integers or text", hint)


def _called(values: Sequence[str | int], names: Sequence[str], path: Path) -> list[str]:
    """The names of the classes of labels."""
    check_range([value for value in values if isinstance(value, int)], len(names), path)
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
