"""Captions that a user already has, in JSON or as a table of text."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from fglfast.base.errors import BadInputError
from fglfast.base.wording import some
from fglfast.images.entries import Form, plain_name, read_entries
from fglfast.images.labelled import LabelledImages

FORM = Form(
    ("file_name", "index"),
    ("caption", "text"),
    "give each line file_name (or index, counted from 0, for parquet and npz) and caption (or text)",
)


class CaptionFile:
    """Captions by file name or by row of a table.

    A file name is the path inside the data set's folder, with slashes or backslashes; its last part is enough where no
    two images share it.

    Args:
        path: of a form that `read_entries` reads.

    Raises:
        BadInputError: it cannot be read, a line lacks something, or an image is there twice.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.captions = path, dict[str, str]()
        for where, entry in read_entries(path, FORM):
            name, caption = _caption(entry, f"{path}: {where}")
            if name in self.captions:
                raise BadInputError(f"{path}: {where}: {name} is there twice", "keep one caption an image")
            self.captions[name] = caption

    def __call__(self, dataset: LabelledImages) -> Iterator[list[str]]:
        """The captions of all images, in one batch.

        Raises:
            BadInputError: an image of the data set has none.
        """
        names = [plain_name(name) for name in dataset.names]
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
                f"{self.path}: {len(missing)} of {len(names)} images have no caption: {some(missing)}{others}",
                FORM.hint,
            )
        yield [self.captions[key] for key in keys]


def _caption(entry: Mapping[str, Any], where: str) -> tuple[str, str]:
    """Name and caption of one image."""
    name, row, caption = entry.get("file_name"), entry.get("index"), entry.get("caption", entry.get("text"))
    if row is not None and str(row).isdecimal():
        name = f"row {int(row)}"
    if not isinstance(name, str) or not name:
        raise BadInputError(f"{where}: names no image", FORM.hint)
    if not isinstance(caption, str) or not caption.strip():
        raise BadInputError(f"{where}: {name} has no caption", FORM.hint)
    return plain_name(name), caption
