"""One pass over the shards of a synthetic data set: how many images a class has, a few of each, what looks alike."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fglfast.base.config import Settings
from fglfast.base.console import Progress
from fglfast.base.errors import BadInputError
from fglfast.images.labelled import LabelledImages
from fglfast.lab.survey.alike import PAIRS, AlikePair, copies, thumbnail, twins
from fglfast.shards.description import Description, read_description
from fglfast.shards.index import read_images
from fglfast.shards.keep import left_out
from fglfast.shards.tar import UNDECODABLE, Sample, decode_image, read_samples, shard_name
from fglfast.synthesis.drawn import Drawn

SHOWN = 8  # images a class
MOST_COMPARED = 10_000  # each with every other


class ClassSurvey(Settings):
    """What a data set holds of a class.

    Attributes:
        name: of the class.
        images: how many.
        bytes: of those, encoded.
        redrawn: how many of them had come out blank at first.
    """

    name: str
    images: int = 0
    bytes: int = 0
    redrawn: int = 0


class Survey(Settings):
    """What a data set holds.

    Attributes:
        folder: its name.
        image_size: side in pixels.
        shards: in so many files.
        classes: by label.
        left_out: how many are left out of training for their scores.
        compared: how many images, evenly spread, were compared with each other.
        alike: how many of those look like another one of them.
        alike_across: how many of those look like one of another class.
        against: what else they were compared with, if anything.
        against_images: how many images of it.
        copies: how many look like one of those.
    """

    folder: str
    image_size: int
    shards: int
    classes: tuple[ClassSurvey, ...]
    left_out: int
    compared: int
    alike: int
    alike_across: int
    against: str | None = None
    against_images: int = 0
    copies: int = 0

    @property
    def images(self) -> int:
        """All images."""
        return sum(found.images for found in self.classes)


@dataclass(frozen=True)
class Alike:
    """Two images [S,S,3] that look alike, their classes, and the root mean square of their differences in levels."""

    one: NDArray[np.uint8]
    one_class: str
    other: NDArray[np.uint8]
    other_class: str
    levels: float


@dataclass(frozen=True)
class Surveyed:
    """A survey and the images that show it.

    Attributes:
        survey: the figures.
        samples: the first images [S,S,3] of each class.
        left_out: images [S,S,3] that are left out of training, their class and score, the lowest first; a few.
        twins: pairs of the data set's images, the most alike first.
        copies: pairs of an image and one that it was compared with, the most alike first.
        drawn: what it was drawn of, clients among it; None if it does not say.
    """

    survey: Survey
    samples: dict[str, list[NDArray[np.uint8]]]
    left_out: list[tuple[NDArray[np.uint8], str, float]]
    twins: list[Alike]
    copies: list[Alike]
    drawn: Drawn | None = None


class _Seen:
    """What a pass over the shards has seen so far."""

    def __init__(self, description: Description) -> None:
        self.names = description.class_names
        self.samples: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in self.names}
        self.images, self.bytes, self.redrawn = (np.zeros(len(self.names), dtype=np.int64) for _ in range(3))
        self.scores: list[float] = []
        self.labels: list[int] = []
        self.thumbnails: list[NDArray[np.uint8]] = []

    def add(self, sample: Sample, size: int, compared: bool) -> None:
        """Count an image; look at it if it is one of those shown or compared."""
        self.images[sample.label] += 1
        self.bytes[sample.label] += len(sample.image)
        self.redrawn[sample.label] += bool(sample.facts.get("redraw"))
        self.scores.append(float(sample.facts.get("score", np.nan)))
        shown = self.samples[self.names[sample.label]]
        if not compared and len(shown) >= SHOWN:
            return
        image = decode_image(sample.image, size)
        if len(shown) < SHOWN:
            shown.append(np.asarray(image))
        if compared:
            self.labels.append(sample.label)
            self.thumbnails.append(thumbnail(image))

    def classes(self) -> tuple[ClassSurvey, ...]:
        """The counts, by class."""
        rows = zip(self.names, self.images, self.bytes, self.redrawn, strict=True)
        return tuple(ClassSurvey(name=name, images=n, bytes=size, redrawn=again) for name, n, size, again in rows)


def survey(folder: Path, against: LabelledImages | None = None, most: int = MOST_COMPARED) -> Surveyed:
    """Look at every shard of a data set.

    Args:
        folder: of the shards.
        against: real images, say those that a generator learned from, which synthetic ones should not repeat.
        most: images of each that are compared; of more, as many, evenly spread.

    Raises:
        BadInputError: the folder is no data set of this version, or a shard is missing or damaged.
    """
    description = read_description(folder)
    images = read_images(folder, description)
    places = _spread(description.images, most)
    seen = _read(folder, description, set(places.tolist()))
    labels, size = np.array(seen.labels), description.image_size
    own = twins(np.stack(seen.thumbnails))
    out = left_out(folder, description)
    lowest = out[np.argsort(np.array(seen.scores)[out], kind="stable")][:PAIRS].tolist()
    others = against.select(_spread(len(against), most)) if against else None
    found = copies(np.stack(seen.thumbnails), others, size) if others else []

    def at(place: int) -> tuple[NDArray[np.uint8], str]:
        name = description.class_names[images.index.labels[place]]
        return images[place].permute(1, 2, 0).numpy(), name

    def drawn(k: int) -> tuple[NDArray[np.uint8], str]:
        return at(int(places[k]))

    def real(k: int) -> tuple[NDArray[np.uint8], str]:
        assert others is not None
        return others.pixels(k, size), others.class_names[others.labels[k]]

    return Surveyed(
        Survey(
            folder=folder.resolve().name,
            image_size=size,
            shards=description.shards,
            classes=seen.classes(),
            left_out=len(out),
            compared=len(labels),
            alike=len(own),
            alike_across=sum(bool(labels[pair.one] != labels[pair.other]) for pair in own),
            against=others.source if others else None,
            against_images=len(others) if others else 0,
            copies=len(found),
        ),
        seen.samples,
        [(*at(place), seen.scores[place]) for place in lowest],
        [Alike(*drawn(pair.one), *drawn(pair.other), pair.levels) for pair in _once(own)[:PAIRS]],
        [Alike(*drawn(pair.one), *real(pair.other), pair.levels) for pair in found[:PAIRS]],
        _drawn(folder),
    )


def _drawn(folder: Path) -> Drawn | None:
    """What the data set says of its clients; one that is not synthesize's, or of its first format, says nothing."""
    with suppress(BadInputError):
        described = Drawn.of(folder)
        return described if described.by_content else None
    return None


def _read(folder: Path, description: Description, compared: set[int]) -> _Seen:
    seen, places = _Seen(description), count()
    with Progress("survey", description.images) as progress:
        for number in range(description.shards):
            shard = folder / shard_name(number)
            for name, sample in read_samples(shard):
                try:
                    seen.add(sample, description.image_size, next(places) in compared)
                except (IndexError, *UNDECODABLE) as error:
                    hint = "fglfast verify finds damaged shards"
                    raise BadInputError(f"{shard}: {name} cannot be used ({error})", hint) from error
                progress.advance(1)
    return seen


def _spread(images: int, most: int) -> NDArray[np.int64]:
    """So many places at most, evenly spread."""
    return np.arange(images) if images <= most else np.linspace(0, images - 1, most).astype(np.int64)


def _once(pairs: Sequence[AlikePair]) -> list[AlikePair]:
    """Of two images that are each other's nearest, one pair: the earlier with the later."""
    places = dict.fromkeys(
        (min(pair.one, pair.other), max(pair.one, pair.other), round(pair.levels, 6)) for pair in pairs
    )
    return [AlikePair(*place) for place in places]
