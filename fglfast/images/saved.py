"""Labelled images of a folder that Hugging Face `datasets` saved."""

from pathlib import Path
from typing import Any

from fglfast.base.errors import BadInputError, MissingExtraError
from fglfast.base.untrusted import loading
from fglfast.images.columns import image_openers, numbered
from fglfast.images.labelled import LabelledImages
from fglfast.images.splits import chosen
from fglfast.images.trial import verified

MARKS = ("dataset_info.json", "dataset_dict.json")


def read_saved(path: Path, split: str | None, source: str) -> LabelledImages:
    """Read what `save_to_disk` left, or one split of it.

    Raises:
        BadInputError: it is none, has no such split or several and none is named, or lacks a column.
        MissingExtraError: the `datasets` package is not there.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(f"{path} was saved by the datasets package", "pip install datasets") from error
    with loading(path, "save it anew"):
        table: Any = datasets.load_from_disk(str(path))
    if isinstance(table, datasets.DatasetDict):
        table = table[chosen(source, list(table), split)]
    else:
        chosen(source, [str(table.split or "")], split)
    if not {"image", "label"} <= set(table.column_names):
        raise BadInputError(f"{path}: columns are {', '.join(table.column_names)}", "need columns image and label")
    with loading(path, "save it anew"):
        table = table.cast_column("image", datasets.Image(decode=False))
        images, labels = list(table["image"]), list(table["label"])
    names, labels = numbered([(labels, getattr(table.features["label"], "names", None))], path)
    openers = image_openers(images, path, path)
    candidates = [(f"row {row}", label, openers[row]) for row, label in enumerate(labels)]
    return verified(names, candidates, source)
