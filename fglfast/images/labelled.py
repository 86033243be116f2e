"""Labelled images, opened one by one as they are needed."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fglfast.base.errors import BadInputError
from fglfast.base.wording import some
from fglfast.images.pixels import deepest, range_of, to_rgb

Opener = Callable[[], Image.Image]

UNLABELLED = "unlabelled"  # the one class of images that have none


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Scaled:
    """Opens a grey image of more than 8 bits by the value that is white in all of its data set."""

    opener: Opener
    white: float

    def __call__(self) -> Image.Image:
        """By what is white in the data set."""
        return to_rgb(self.opener(), self.white)

    def alone(self) -> Image.Image:
        """By the narrowest usual range that holds this image's own values."""
        image = self.opener()
        deep = deepest(image)
        return to_rgb(image, range_of(*deep)) if deep else to_rgb(image)


@dataclass(frozen=True)
class LabelledImages:
    """Images with labels, decoded on demand.

    Attributes:
        class_names: names of all classes; a class may have no image.
        labels: class of each image [N].
        openers: how each image is opened.
        skipped: images left out because they could not be read.
        source: what was asked for.
        names: what each image is called there: its path inside a folder, or "row 7" of a table.
        checksums: of the decoded pixels of each.
    """

    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    openers: tuple[Opener, ...]
    skipped: tuple[Skipped, ...]
    source: str
    names: tuple[str, ...] = ()
    checksums: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """One image as RGB: turned upright, transparency on white."""
        return to_rgb(self.openers[index]())

    def pixels(self, index: int, size: int) -> NDArray[np.uint8]:
        """One image cropped to a square and resized (bicubic): uint8 [size,size,3]."""
        return np.asarray(ImageOps.fit(self.image(index), (size, size), Image.Resampling.BICUBIC))

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> "LabelledImages":
        """The images at some indices; the classes stay."""
        rows = [int(index) for index in indices]
        return replace(
            self,
            labels=self.labels[rows],
            openers=tuple(self.openers[row] for row in rows),
            skipped=(),
            names=tuple(self.names[row] for row in rows if self.names),
            checksums=tuple(self.checksums[row] for row in rows if self.checksums),
        )

    def alone(self) -> "LabelledImages":
        """The same images, none of which changes how another is seen: what differential privacy rests on."""
        openers = (opener.alone if isinstance(opener, Scaled) else opener for opener in self.openers)
        return replace(self, openers=tuple(openers))

    def named(self, class_names: tuple[str, ...]) -> "LabelledImages":
        """The same images under another list of classes; a class without images need not be in it.

        Raises:
            BadInputError: a class of these images is not in the list.
        """
        places = {name: place for place, name in enumerate(class_names)}
        held = [name for name, count in zip(self.class_names, self.counts(), strict=True) if count]
        if unknown := [name for name in held if name not in places]:
            raise BadInputError(
                f"{self.source}: images of unknown classes: {some(unknown)}", f"known are {some(class_names, 10)}"
            )
        table = np.array([places.get(name, -1) for name in self.class_names], dtype=np.int64)
        return replace(self, class_names=class_names, labels=table[self.labels])

    def digest(self) -> str:
        """sha256 of the images by class, name and pixels, in any order; empty classes do not count."""
        names, checksums = self.names or ("",) * len(self), self.checksums or (0,) * len(self)
        images = zip(self.labels.tolist(), names, checksums, strict=True)
        rows = sorted((self.class_names[label], name, checksum) for label, name, checksum in images)
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def counts(self) -> NDArray[np.int64]:
        """Images of each class [classes]."""
        return np.bincount(self.labels, minlength=len(self.class_names)).astype(np.int64)


def concatenate(parts: Sequence[LabelledImages]) -> LabelledImages:
    """The images of several data sets, and all their classes."""
    names = tuple(dict.fromkeys(name for part in parts for name in part.class_names))
    return LabelledImages(
        class_names=names,
        labels=np.concatenate([part.named(names).labels for part in parts]),
        openers=tuple(opener for part in parts for opener in part.openers),
        skipped=tuple(skipped for part in parts for skipped in part.skipped),
        source=", ".join(dict.fromkeys(part.source for part in parts)),
        names=_joined([part.names for part in parts]),
        checksums=_joined([part.checksums for part in parts]),
    )


def _joined(facts: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    """What each image has, where all parts say so."""
    return tuple(chain.from_iterable(facts)) if all(facts) else ()
