"""Captions that a user already has, in JSON or as a table of text."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fglfast.base.console import note
from fglfast.base.errors import BadInputError
from fglfast.base.wording import some
from fglfast.client.prompts import encodable
from fglfast.images.entries import Form, plain_name, read_entries
from fglfast.images.labelled import LabelledImages

FORM = Form(
    ("file_name", "index"),
    ("caption", "text"),
    "give each line file_name (or index, counted from 0, for parquet and npz) and caption (or text)",
)
INDEX = re.compile(r"\d{1,18}")
ROW = re.compile(r"row \d+")  # what an image without a file is called


@dataclass(frozen=True)
class Line:
    """One caption, and what its line calls the image.

    Attributes:
        where: its place in the file, for people.
        file: the image's file name; empty where none is given.
        row: likewise, "row 7" of a table.
        caption: not empty.
    """

    where: str
    file: str
    row: str
    caption: str


class CaptionFile:
    """Captions by file name or by row of a table.

    A file name is the path inside the data set's folder, with slashes or backslashes; its last part is enough where no
    two images share it. Of a line that has a file name and an index too, as pandas writes them, images that are files
    take the name, and rows of a table the index.

    Raises:
        BadInputError: it cannot be read, or a line lacks something.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = [_line(entry, f"{path}: {where}") for where, entry in read_entries(path, FORM)]

    def __call__(self, dataset: LabelledImages) -> Iterator[list[str]]:
        """The captions of all images, in one batch; how many captions are of none of them is said.

        Raises:
            BadInputError: an image of the data set has none, or one is there twice.
        """
        names = [plain_name(name) for name in dataset.names]
        captions = self._by_name(rows=all(map(ROW.fullmatch, names)))
        keys = _keys(names, captions)
        missing, unused = [key for key in keys if key not in captions], sorted(captions.keys() - set(keys))
        if missing:
            others = f"; the file has captions of {some(unused)}" if unused else ""
            raise BadInputError(
                f"{self.path}: {len(missing)} of {len(names)} images have no caption: {some(missing)}{others}",
                FORM.hint,
            )
        if unused:
            count = f"{len(unused):,} of its {len(captions):,} captions"
            note(f"{self.path}: {count} belong to none of the {len(names):,} images: {some(unused)}")
        yield [captions[key] for key in keys]

    def _by_name(self, rows: bool) -> dict[str, str]:
        """Captions by what their images are called, as rows of a table or else as files."""
        captions: dict[str, str] = {}
        for line in self.lines:
            name = (line.row or line.file) if rows else (line.file or line.row)
            if name in captions:
                raise BadInputError(f"{line.where}: {name} is there twice", "keep one caption an image")
            captions[name] = line.caption
        return captions


def _keys(names: Sequence[str], captions: Mapping[str, str]) -> list[str]:
    """What the captions of images go by: the whole path, or its last part where that is the image's alone."""
    last = [PurePosixPath(name).name for name in names]
    shared = Counter(last)
    return [
        short if shared[short] == 1 and name not in captions else name for name, short in zip(names, last, strict=True)
    ]


def _line(entry: Mapping[str, Any], where: str) -> Line:
    """What a line says: the image's names and its caption."""
    name, index = entry.get("file_name"), entry.get("index")
    file = plain_name(name) if isinstance(name, str) else ""
    row = f"row {int(str(index))}" if INDEX.fullmatch(str(index)) else ""
    if not file and not row:
        raise BadInputError(f"{where}: names no image", FORM.hint)
    return Line(where, file, row, _caption(entry, where, file or row))


def _caption(entry: Mapping[str, Any], where: str, name: str) -> str:
    """The caption of a line, from the first of its columns that holds anything."""
    said = [entry.get(column) for column in FORM.facts]
    caption = next((one for one in said if one is not None and str(one).strip()), None)
    if isinstance(caption, list):
        raise BadInputError(f"{where}: the caption of {name} is a list", "write one caption a row, one row an image")
    if not isinstance(caption, str):
        raise BadInputError(f"{where}: {name} has no caption", FORM.hint)
    if not encodable(caption):
        problem = f"the caption of {name} holds half a letter (a lone surrogate such as \\ud83d)"
        raise BadInputError(f"{where}: {problem}", "write the letter whole, or leave it out")
    return caption
