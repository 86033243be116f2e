"""Captions that a user already has, in JSON lines or CSV. Knows no model."""

import csv
import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from fglfast.base.errors import BadInputError
from fglfast.images.labelled import LabelledImages

NAMED = 3  # images without a caption that an error names
LAYOUT = "give each line file_name (or index, counted from 0, for parquet and npz) and caption (or text)"


class CaptionFile:
    """Captions by file name or by row of a table.

    A file name is the path inside the data set's folder; its last part is enough where no two images share it.

    Args:
        path: JSON lines, or CSV with a line of column names.

    Raises:
        BadInputError: it cannot be read, a line lacks something, or an image is there twice.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.captions = path, dict[str, str]()
        for number, line in _lines(path):
            name, caption = _entry(line, path, number)
            if name in self.captions:
                raise BadInputError(f"{path}: line {number}: {name} is there twice", "keep one caption an image")
            self.captions[name] = caption

    def __call__(self, dataset: LabelledImages) -> Iterator[list[str]]:
        """The captions of all images, in one batch.

        Raises:
            BadInputError: an image of the data set has none.
        """
        names = [unicodedata.normalize("NFC", name) for name in dataset.names]
        last = [PurePosixPath(name).name for name in names]
        shared = Counter(last)
        keys = [
            short if shared[short] == 1 and name not in self.captions else name
            for name, short in zip(names, last, strict=True)
        ]
        missing = [key for key in keys if key not in self.captions]
        if missing:
            some = ", ".join(missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
            raise BadInputError(f"{self.path}: {len(missing)} of {len(names)} images have no caption: {some}", LAYOUT)
        yield [self.captions[key] for key in keys]


def _lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The entries of a file and the lines they are on."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets begin with a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(
            f"{path}: cannot be read as UTF-8 text ({error})", "check the path and its encoding"
        ) from error
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(text.splitlines(keepends=True))
        try:
            yield from ((reader.line_num, line) for line in reader)
        except csv.Error as error:
            raise BadInputError(f"{path}: line {reader.line_num}: not CSV ({error})", LAYOUT) from error
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, dict(json.loads(line))
        except (ValueError, TypeError, RecursionError) as error:
            raise BadInputError(f"{path}: line {number}: not a JSON object", LAYOUT) from error


def _entry(line: Mapping[str, Any], path: Path, number: int) -> tuple[str, str]:
    """Name and caption of one image."""
    name, row, caption = line.get("file_name"), line.get("index"), line.get("caption", line.get("text"))
    if row is not None and str(row).isdecimal():
        name = f"row {int(row)}"
    if not isinstance(name, str) or not name:
        raise BadInputError(f"{path}: line {number}: names no image", LAYOUT)
    if not isinstance(caption, str) or not caption.strip():
        raise BadInputError(f"{path}: line {number}: {name} has no caption", LAYOUT)
    return unicodedata.normalize("NFC", name), caption
