"""Captions that a user already has, in JSON or as a table of text."""

import csv
import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Any

from fglfast.base.errors import BadInputError
from fglfast.base.untrusted import distinct_keys
from fglfast.base.wording import some
from fglfast.images.labelled import LabelledImages

LAYOUT = "give each line file_name (or index, counted from 0, for parquet and npz) and caption (or text)"
NAMES, TEXTS = ("file_name", "index"), ("caption", "text")  # the columns or keys that are read, one of each
MORE = "more columns than names"
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}

Entry = tuple[str, Mapping[str, Any]]  # where it stands, for people; what is there by column or key


class CaptionFile:
    """Captions by file name or by row of a table.

    A file name is the path inside the data set's folder, with slashes or backslashes; its last part is enough where no
    two images share it.

    Args:
        path: JSON lines, a JSON list of the same objects, a JSON object of captions by file name, or lines of columns
            that commas, semicolons or tabs separate, under a line of their names.

    Raises:
        BadInputError: it cannot be read, a line lacks something, or an image is there twice.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.captions = path, dict[str, str]()
        for where, entry in _entries(path):
            name, caption = _caption(entry, f"{path}: {where}")
            if name in self.captions:
                raise BadInputError(f"{path}: {where}: {name} is there twice", "keep one caption an image")
            self.captions[name] = caption

    def __call__(self, dataset: LabelledImages) -> Iterator[list[str]]:
        """The captions of all images, in one batch.

        Raises:
            BadInputError: an image of the data set has none.
        """
        names = [_plain(name) for name in dataset.names]
        last = [PurePosixPath(name).name for name in names]
        shared = Counter(last)
        keys = [
            short if shared[short] == 1 and name not in self.captions else name
            for name, short in zip(names, last, strict=True)
        ]
        missing = [key for key in keys if key not in self.captions]
        if missing:
            unused = sorted(self.captions.keys() - set(keys))
            others = f"; the file has captions of {some(unused)}" if unused else ""
            raise BadInputError(
                f"{self.path}: {len(missing)} of {len(names)} images have no caption: {some(missing)}{others}", LAYOUT
            )
        yield [self.captions[key] for key in keys]


def _entries(path: Path) -> Iterator[Entry]:
    """The entries of a file and where they are; what begins as JSON is JSON, whatever it is called."""
    try:
        text = path.read_bytes().decode("utf-8-sig")  # spreadsheets begin with a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(
            f"{path}: cannot be read as UTF-8 text ({error})", "check the path and its encoding"
        ) from error
    if text.lstrip()[:1] in ("{", "[") or path.suffix.lower() in (".json", ".jsonl"):
        return _json_entries(text, path)
    return _table_entries(text, path)


def _table_entries(text: str, path: Path) -> Iterator[Entry]:
    """Lines of columns, the first of their names.

    Read as a stream, quoted captions may hold line ends; `str.splitlines` would also end a line at U+2028 and others.
    """
    delimiter = _delimiter(text, path)
    reader = csv.DictReader(
        StringIO(text, newline=""), delimiter=delimiter, restkey=MORE, skipinitialspace=True, strict=True
    )
    try:
        for line in reader:
            where = f"line {reader.line_num}"
            if any(line.pop(MORE, ())):
                problem = f"more columns than the {len(line)} that the first line names"
                hint = f"put quotes around a caption that has {DELIMITERS[delimiter]}"
                raise BadInputError(f"{path}: {where}: {problem}", hint)
            if any(line.values()):  # spreadsheets end with empty lines
                yield where, line
    except csv.Error as error:
        raise BadInputError(f"{path}: line {reader.line_num}: not CSV ({error})", LAYOUT) from error


def _delimiter(text: str, path: Path) -> str:
    """What separates the columns: that by which the first line names those that are needed.

    Raises:
        BadInputError: none does.
    """
    columns: dict[str, list[str]] = {}
    for delimiter in DELIMITERS:
        try:
            columns[delimiter] = next(
                csv.reader(StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
            )
        except (csv.Error, StopIteration):
            columns[delimiter] = []
        if all(set(wanted) & set(columns[delimiter]) for wanted in (NAMES, TEXTS)):
            return delimiter
    likely = max(columns, key=lambda delimiter: len(columns[delimiter]))
    found = columns[likely]
    missing = " and ".join(wanted[0] for wanted in (NAMES, TEXTS) if not set(wanted) & set(found))
    parted = f", separated by {DELIMITERS[likely]}" if len(found) > 1 else ""
    named = some([repr(name[:80]) for name in found]) or "none"
    hint = "begin with a line such as file_name,caption"
    raise BadInputError(f"{path}: line 1: no column {missing}; it names {named}{parted}", hint)


def _json_entries(text: str, path: Path) -> Iterator[Entry]:
    """JSON lines, or one JSON value for all: a list of entries, or captions by file name."""
    try:
        whole = json.loads(text, object_pairs_hook=distinct_keys)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":  # after the first line, which is whole then
            raise BadInputError(f"{path}: line {error.lineno}: not a JSON object ({error.msg})", LAYOUT) from error
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: not JSON that can be read ({error})", LAYOUT) from error
    else:
        yield from _of_whole(whole, path)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", _object(line, f"{path}: line {number}")


def _of_whole(value: Any, path: Path) -> Iterator[Entry]:
    if isinstance(value, dict) and not set(NAMES) & set(value):
        if not all(isinstance(caption, str) for caption in value.values()):
            what = f"one JSON object of {some([repr(key) for key in value])}, not of captions by file name"
            raise BadInputError(f"{path}: {what}", LAYOUT)
        value = [{NAMES[0]: name, TEXTS[0]: caption} for name, caption in value.items()]
    what, entries = ("entry", value) if isinstance(value, list) else ("line", [value])
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            raise BadInputError(f"{path}: {what} {number}: not a JSON object", LAYOUT)
        yield f"{what} {number}", entry


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(line, object_pairs_hook=distinct_keys)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict):
        raise BadInputError(f"{where}: not a JSON object", LAYOUT)
    return entry


def _caption(entry: Mapping[str, Any], where: str) -> tuple[str, str]:
    """Name and caption of one image."""
    name, row, caption = entry.get("file_name"), entry.get("index"), entry.get("caption", entry.get("text"))
    if row is not None and str(row).isdecimal():
        name = f"row {int(row)}"
    if not isinstance(name, str) or not name:
        raise BadInputError(f"{where}: names no image", LAYOUT)
    if not isinstance(caption, str) or not caption.strip():
        raise BadInputError(f"{where}: {name} has no caption", LAYOUT)
    return _plain(name), caption


def _plain(name: str) -> str:
    """A file's name, or path inside the data set, in one way of writing it."""
    return unicodedata.normalize("NFC", name).replace("\\", "/").removeprefix("./")
