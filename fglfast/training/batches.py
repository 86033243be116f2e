"""Which images a step sees: the held-out split, the order, the batches on the device. Knows no model.

Everything random is keyed by (seed, epoch, step, rank), so any step can be found again by skipping.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fglfast.base.errors import UsageError
from fglfast.shards.description import Description, read_description
from fglfast.shards.index import MEMORY_LIMIT, Rows, SyntheticImages, read_index
from fglfast.training.augment import normalise
from fglfast.training.settings import Job


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


@dataclass(frozen=True)
class TrainingData:
    """The synthetic images with their labels, and which rows train and which judge."""

    description: Description
    images: SyntheticImages
    labels: Tensor
    train: Rows
    held_out: Rows

    def batches(self, rows: Iterable[Rows], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of normalised images [B, 3, S, S] and labels [B] on the device, one for each item of `rows`."""
        cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        loader = DataLoader(
            self.images,
            batch_sampler=[part.tolist() for part in rows],
            collate_fn=_as_it_is,
            num_workers=0 if self.images.in_memory else max(1, min(8, cores - 1)),
            pin_memory=device.type == "cuda",
        )
        for images, part in zip(loader, loader.batch_sampler or (), strict=True):
            yield (
                normalise(images.to(device, non_blocking=True)),
                self.labels[part].to(device, non_blocking=True),
            )


def _as_it_is(batch: Any) -> Any:
    return batch


def load_data(job: Job) -> TrainingData:
    """Index the shards and split their rows.

    Raises:
        UsageError: there are fewer images to train on than one batch holds.
        BadInputError, IncompleteError: the folder is not a whole synthetic data set.
    """
    settings, description = job.settings, read_description(job.synthetic)
    index = read_index(job.synthetic, description)
    limit = MEMORY_LIMIT // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    size = settings.image_size or description.image_size
    images = SyntheticImages(index, description.image_size, size, limit)
    train, held_out = split(index.labels, settings.validation_share, settings.seed)
    if len(train) < settings.batch_size:
        raise UsageError(
            f"batch_size {settings.batch_size} is more than the {len(train)} images to train on",
            "Choose a smaller batch_size, or synthesize more images.",
        )
    return TrainingData(description, images, torch.from_numpy(index.labels), train, held_out)
