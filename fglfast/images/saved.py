"""Images of a folder that Hugging Face `datasets` saved."""

from pathlib import Path
from typing import Any

from fglfast.base.errors import BadInputError, MissingExtraError
from fglfast.base.untrusted import loading
from fglfast.images.columns import COLUMNS, image_openers, numbered
from fglfast.images.labelled import UNLABELLED, LabelledImages
from fglfast.images.splits import chosen
from fglfast.images.trial import verified

MARKS = ("dataset_info.json", "dataset_dict.json")


def read_saved(path: Path, split: str | None, source: str, labelled: bool = True) -> LabelledImages:
    """Read what `save_to_disk` left, or one split of it; unlabelled, its images alone.

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
    if not set(COLUMNS if labelled else COLUMNS[:1]) <= set(table.column_names):
        need = "need columns image and label" if labelled else "need a column image"
        raise BadInputError(f"{path}: columns are {', '.join(table.column_names)}", need)
    with loading(path, "save it anew"):
        table = table.cast_column("image", datasets.Image(decode=False))
        images = list(table["image"])
        called: list[Any] = list(table["label"]) if labelled else [UNLABELLED] * len(images)
    declared = getattr(table.features["label"], "names", None) if labelled else None
    names, labels = numbered([(called, declared)], path)
    openers = image_openers(images, path, path)
    candidates = [(f"row {row}", label, openers[row]) for row, label in enumerate(labels)]
    return verified(names, candidates, source)
