"""Captions of private images: measured words, a captioning model, or a file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from fglfast.base.console import Progress
from fglfast.base.errors import BadInputError
from fglfast.generator.text import is_hub_id
from fglfast.images.attributes import describe
from fglfast.images.labelled import LabelledImages

ATTRIBUTES = "attributes"
FILES = (".jsonl", ".json", ".csv", ".tsv", ".txt")


class Captioner(Protocol):
    """Says what is in images."""

    def __call__(self, dataset: LabelledImages) -> Iterator[list[str]]:
        """The captions of all images of a data set in their order, batch after batch."""
        ...


class MeasuredAttributes:
    """Shade, texture and proportions of an image, the words that `mini` was trained with.

    Args:
        size: side in pixels at which they are measured: the generator's own.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, dataset: LabelledImages) -> Iterator[list[str]]:
        """Captions such as "dark plain wide"."""
        return ([describe(dataset.pixels(row, self.size))] for row in range(len(dataset)))


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
        return MeasuredAttributes(size)
    if Path(name).suffix.lower() in FILES or Path(name).is_file():
        from fglfast.client.caption_file import CaptionFile

        return CaptionFile(Path(name))
    if not (Path(name).is_dir() or is_hub_id(name)):
        raise BadInputError(f"captions: {name}: no such file or folder", f"check the path, or give {ATTRIBUTES}")
    from fglfast.client.caption_model import CaptionModel

    return CaptionModel(name, 1) if alone else CaptionModel(name)


def caption_all(dataset: LabelledImages, captioner: Captioner) -> list[str]:
    """The caption of every image, on one line each."""
    captions: list[str] = []
    with Progress("caption", len(dataset)) as progress:
        for some in captioner(dataset):
            captions += [" ".join(caption.split()) for caption in some]
            progress.advance(len(some))
    return captions
