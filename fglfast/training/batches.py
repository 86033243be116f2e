"""Which images a step sees: their pixels, the held-out split, the order, the batches on the device.

Everything random is keyed by (seed, epoch, step, rank), so any step can be found again by skipping.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fglfast.base.console import Progress
from fglfast.images.labelled import LabelledImages
from fglfast.shards.index import Rows

AHEAD = 2  # batches that are read while one is computed


def generator(*identity: int) -> np.random.Generator:
    """A counter-based generator that is the same for the same numbers, everywhere."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(identity)))


def split(labels: Rows, share: float, seed: int) -> tuple[Rows, Rows]:
    """Hold out a share of every class, at least one image where a class has two or more.

    Returns:
        The rows to train on and the rows held out, each ascending.
    """
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels) if share else ():
        rows = np.flatnonzero(labels == label)
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        held_out[generator(seed, 1, int(label)).permutation(rows)[:count]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def epoch_rows(
    rows: Rows, batch_size: int, seed: int, epoch: int, rank: int = 0, world: int = 1, first_step: int = 0
) -> Iterator[Rows]:
    """This rank's part of every step's batch; over all ranks each step is one slice of one permutation.

    The permutation depends on (seed, epoch) alone, so any step of any epoch is found again by skipping,
    and a step holds the same images at any world size. The remainder that fills no batch is left out.

    Args:
        rows: what to train on.
        batch_size: images a step over all ranks, a multiple of `world`.
        seed: of the run.
        epoch: counted from 0.
        rank: of this process.
        world: how many processes share the batch.
        first_step: steps of this epoch that are done already.
    """
    order = generator(seed, 2, epoch).permutation(rows)
    for step in range(first_step, len(rows) // batch_size):
        yield order[step * batch_size + rank : (step + 1) * batch_size : world]


def step_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """The seed of all random draws of one rank in one step: augmentation, dropout."""
    return int(generator(seed, 3, epoch, step, rank).integers(2**63))


class Pixels(Protocol):
    """Images that are asked for by their rows: a tensor of them all, or what reads them from files."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, rows: Any, /) -> Tensor:
        """The images of some rows: uint8 [B,3,S,S], or float32 that is normalised already."""


@dataclass(frozen=True)
class DecodedImages:
    """A user's images cropped to squares and resized, each decoded whenever it is asked for."""

    dataset: LabelledImages
    size: int

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, rows: Rows) -> Tensor:
        pixels_BSSC = np.stack([self.dataset.pixels(row, self.size) for row in rows.tolist()])
        return torch.from_numpy(pixels_BSSC).permute(0, 3, 1, 2)


def read_pixels(dataset: LabelledImages, size: int, name: str = "") -> Tensor:
    """All of a user's images, cropped to squares and resized: uint8 [N,3,S,S]; progress is shown if it has a name."""
    pixels_N3SS = torch.empty(len(dataset), 3, size, size, dtype=torch.uint8)
    with Progress(name, len(dataset)) as progress:
        for row in range(len(dataset)):
            pixels_N3SS[row] = torch.from_numpy(dataset.pixels(row, size).copy()).permute(2, 0, 1)
            progress.advance(1)
    return pixels_N3SS


@dataclass(frozen=True)
class TrainingData:
    """Images with their labels, and which rows train and which judge.

    Attributes:
        pixels: the images.
        labels: class of each [N].
        size: side of an image in pixels.
        train: rows to learn from.
        held_out: rows to judge with; none unless given.
    """

    pixels: Pixels
    labels: Tensor
    size: int
    train: Rows
    held_out: Rows = field(default_factory=lambda: np.array([], dtype=np.int64))

    @classmethod
    def of(cls, dataset: LabelledImages, size: int, validation_share: float, seed: int) -> "TrainingData":
        """A user's images, decoded and resized once, with a share of every class held out."""
        labels = torch.from_numpy(dataset.labels)
        return cls(read_pixels(dataset, size), labels, size, *split(dataset.labels, validation_share, seed))


def batches(pixels: Pixels, parts: Iterable[Rows], device: torch.device) -> Iterator[Tensor]:
    """Batches of images [B,3,S,S] as they are kept, but on a device, one for each of some lists of rows.

    What has to be read from files, or copied to a GPU, is fetched by a thread of its own, a little ahead.
    """
    if isinstance(pixels, Tensor) and pixels.device == device:
        for rows in parts:
            yield pixels[torch.from_numpy(rows).to(device)]
        return

    def fetch(rows: Rows) -> Tensor:
        return pixels[rows].pin_memory() if device.type == "cuda" else pixels[rows]

    for images in _ahead(fetch, parts):
        yield images.to(device, non_blocking=True)


def _ahead(fetch: Callable[[Rows], Tensor], parts: Iterable[Rows]) -> Iterator[Tensor]:
    with ThreadPoolExecutor(1) as reader:
        coming = deque[Future[Tensor]]()
        for rows in parts:
            coming.append(reader.submit(fetch, rows))
            if len(coming) > AHEAD:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
