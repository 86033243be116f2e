"""Captions of private images: measured words, a captioning model, or a file."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from fglfast.base.console import Progress
from fglfast.base.errors import BadInputError
from fglfast.generator.text import is_hub_id
from fglfast.images.attributes import describe
from fglfast.images.labelled import LabelledImages

ATTRIBUTES = "attributes"
FILES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab", ".txt")
# What people keep captions in beside these: no name of a model ends so.
SHEETS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".numbers")
TABLES = (".parquet", ".feather", ".arrow", ".npz", ".npy", ".pkl", ".pickle", ".h5", ".hdf5", ".sqlite", ".db", ".sql")
TEXTS = (".xml", ".yaml", ".yml", ".toml", ".html", ".htm", ".md", ".rtf", ".doc", ".docx", ".odt", ".pdf")
PACKED = (".zip", ".gz", ".bz2", ".xz", ".zst", ".tar", ".tgz", ".7z")
UNREAD = SHEETS + TABLES + TEXTS + PACKED


# Gives the captions of all images of a data set in their order, batch after batch.
Captioner = Callable[[LabelledImages], Iterator[list[str]]]


def find_captioner(name: str, size: int, alone: bool = False) -> Captioner:
    """The captioner that `--captions` names: `attributes`, a file, or a model (hub id or folder).

    Args:
        name: what the user wrote.
        size: the generator's image size in pixels.
        alone: show a model each image by itself, so that no other image can change its caption in the last bits.

    Raises:
        BadInputError: the file or the model cannot be read.
    """
    if name == ATTRIBUTES:
        return partial(measured, size)
    _check_ending(Path(name))
    if Path(name).suffix.lower() in FILES or Path(name).is_file():
        from fglfast.client.caption_file import CaptionFile

        return CaptionFile(Path(name))
    if not (Path(name).is_dir() or is_hub_id(name)):
        raise BadInputError(f"captions: {name}: no such file or folder", f"check the path, or give {ATTRIBUTES}")
    from fglfast.client.caption_model import CaptionModel

    return CaptionModel(name, 1) if alone else CaptionModel(name)


def measured(size: int, dataset: LabelledImages) -> Iterator[list[str]]:
    """Shade, texture and proportions of each image, as "dark plain wide": the words that `mini` was trained with."""
    return ([describe(dataset.pixels(row, size))] for row in range(len(dataset)))


def _check_ending(path: Path) -> None:
    """Refuse what ends like a file that is not read: it is no captioning model either.

    Raises:
        BadInputError: it does.
    """
    ending = path.suffix.lower()
    if ending not in UNREAD or path.is_dir():
        return
    if not path.exists():
        raise BadInputError(f"captions: {path}: no such file", f"check the path; read are {', '.join(FILES)}")
    way = "unpack it" if ending in PACKED else "save it as CSV in UTF-8, with columns file_name and caption"
    raise BadInputError(
        f"captions: {path}: files that end in {ending} are not read", f"{way}; read are {', '.join(FILES)}"
    )


def caption_all(dataset: LabelledImages, captioner: Captioner) -> list[str]:
    """The caption of every image, on one line each."""
    captions: list[str] = []
    with Progress("caption", len(dataset)) as progress:
        for some in captioner(dataset):
            captions += [" ".join(caption.split()) for caption in some]
            progress.advance(len(some))
    return captions
