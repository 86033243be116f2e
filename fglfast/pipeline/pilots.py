"""Pilots: small classifiers trained on parts of a data set, judged by images that none of them saw."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fglfast.base.console import Progress
from fglfast.base.errors import BadInputError
from fglfast.base.wording import some
from fglfast.images.labelled import LabelledImages
from fglfast.pipeline.scaling import Pilot, transport_distance
from fglfast.shards.description import read_description
from fglfast.shards.index import read_images
from fglfast.training.batches import TrainingData, generator, read_pixels
from fglfast.training.in_memory import trained
from fglfast.training.predict import features, predict
from fglfast.training.settings import TrainSettings

SIDE = 32  # pixels at most that a pilot sees
PILOT = TrainSettings(arch="resnet10-tiny", epochs=15, batch_size=32)
LEAST_STEPS = 300  # of a pilot: of one that has not learned what it could, more images say nothing
PARTS = (1, 2, 4)  # the whole, its halves, its quarters
HELD_OUT = 5  # without real images, of so many synthetic ones of a class one judges
MOST_JUDGES = 2000
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Judges:
    """Images that judge.

    Attributes:
        pixels_N3SS: uint8.
        labels_N: by the classes of the data set.
        real: whether they are; synthetic ones are easier, and a data set's own faults do not show on them.
    """

    pixels_N3SS: Tensor
    labels_N: Rows
    real: bool

    @classmethod
    def of(
        cls, images: LabelledImages, class_names: tuple[str, ...], present: Rows, size: int, most: int = MOST_JUDGES
    ) -> "Judges":
        """Real images, `most` of them at most, of the classes that are drawn.

        Raises:
            BadInputError: they have other classes, or none that is drawn.
        """
        own = images.named(class_names)
        known = np.flatnonzero(np.isin(own.labels, present))
        if not len(known):
            names = some([class_names[label] for label in present])
            raise BadInputError(f"{images.source}: no image of a class that is drawn", f"drawn are {names}")
        chosen = own.select(np.sort(generator(0, 4).permutation(known)[:most]))
        return cls(read_pixels(chosen, size), chosen.labels, real=True)

    def digest(self) -> str:
        """sha256 of pixels and labels."""
        return hashlib.sha256(self.pixels_N3SS.numpy().tobytes() + self.labels_N.tobytes()).hexdigest()


@dataclass(frozen=True)
class Pool:
    """The first images of a data set, decoded: what pilots learn from.

    Any of its parts is a fair sample of all clients, as classes and rows stand in turn.

    Attributes:
        pixels_N3SS: uint8, in order.
        labels_N: theirs.
        class_names: of the data set.
        images_per_class: how many there are.
    """

    pixels_N3SS: Tensor
    labels_N: Rows
    class_names: tuple[str, ...]
    images_per_class: int

    @classmethod
    def of(cls, folder: Path, images_per_class: int, size: int) -> "Pool":
        """Read so many images of each class of a data set that holds them."""
        description = read_description(folder)
        images = read_images(folder, description, size)
        labels = images.index.labels
        rows = np.arange(images_per_class * len(np.unique(labels)))
        return cls(images[rows], labels[rows], description.class_names, images_per_class)

    @cached_property
    def present(self) -> Rows:
        """Classes that are drawn."""
        return np.unique(self.labels_N)

    def part(self, images_per_class: int, number: int) -> Rows:
        """The rows of one of the parts that have so many images of each class."""
        size = images_per_class * len(self.present)
        return np.arange(number * size, (number + 1) * size)

    @cached_property
    def held_out(self) -> Rows:
        """The rows that judge where no real image does: every fifth of each class."""
        return np.flatnonzero(np.arange(len(self.labels_N)) // len(self.present) % HELD_OUT == HELD_OUT - 1)

    def judges(self) -> Judges:
        """The images that are held out."""
        return Judges(self.pixels_N3SS[self.held_out], self.labels_N[self.held_out], real=False)

    def taught(self, rows: Rows, judges: Judges) -> Rows:
        """Those of some rows that a classifier may learn from."""
        return rows if judges.real else np.setdiff1d(rows, self.held_out)

    def train(self, rows: Rows, settings: TrainSettings) -> Any:
        """A classifier trained on some rows, to its end: a few images are seen more often."""
        batch = min(settings.batch_size, len(rows))
        epochs = max(settings.epochs, -(-LEAST_STEPS // (len(rows) // batch)))
        data = TrainingData(self.pixels_N3SS, torch.from_numpy(self.labels_N), self.pixels_N3SS.shape[-1], rows)
        return trained(data, self.class_names, settings.model_copy(update={"batch_size": batch, "epochs": epochs}))


def run_pilots(pool: Pool, judges: Judges, settings: TrainSettings = PILOT) -> list[Pilot]:
    """Train on the whole, its halves and its quarters, each with a seed of its own.

    Distances are between the features that the pilot of the whole sees.
    """
    jobs = [(pool.images_per_class // parts, part) for parts in PARTS for part in range(parts)]
    pilots = []
    with Progress("pilots", len(jobs), unit="pilot") as progress:
        for number, (size, part) in enumerate(jobs):
            taught = pool.taught(pool.part(size, part), judges)
            model = pool.train(taught, settings.model_copy(update={"seed": settings.seed + number}))
            if number == 0:  # the pilot of the whole
                own_NF, others_MF = (
                    features(model, pixels).double().numpy() for pixels in (pool.pixels_N3SS, judges.pixels_N3SS)
                )
            far = transport_distance(own_NF[taught], pool.labels_N[taught], others_MF, judges.labels_N)
            accuracy = right(model, judges)
            pilots.append(Pilot(images_per_class=size, part=part, accuracy=accuracy, distance=round(far, 6)))
            progress.advance(1)
    return pilots


def one_more(pool: Pool, judges: Judges, settings: TrainSettings = PILOT) -> Pilot:
    """Train on the whole alone; its distance is not measured, as it sees images otherwise than the pilots before."""
    model = pool.train(pool.taught(pool.part(pool.images_per_class, 0), judges), settings)
    return Pilot(images_per_class=pool.images_per_class, part=0, accuracy=right(model, judges))


def right(model: Any, judges: Judges) -> float:
    """The share of the judging images that a classifier names rightly."""
    named = predict(model, judges.pixels_N3SS).argmax(1).numpy()
    return round(float((named == judges.labels_N).mean()), 6)
