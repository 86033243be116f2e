"""The images that a server has itself, by which it judges an average."""

from pathlib import Path

import numpy as np
import torch

from fglfast.federation.experiment import Experiment
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import LabelledImages
from fglfast.shards.description import read_description
from fglfast.shards.index import read_images
from fglfast.training.batches import TrainingData, generator

MOST = 512  # images are enough to see that an average is ruined


def named_images(experiment: Experiment) -> dict[str, LabelledImages]:
    """The real images that a server's settings name, by their use."""
    public = {"public": read_dataset(experiment.public)} if experiment.public else {}
    return {"test": read_dataset(experiment.test), **public}


def own_images(experiment: Experiment, class_names: tuple[str, ...], synthetic: Path | None) -> TrainingData | None:
    """Some of the server's synthetic images if it has a finished folder, else of its public ones, else None."""
    if synthetic is not None:
        return _synthetic(synthetic, experiment.image_size)
    if not experiment.public:
        return None
    public = read_dataset(experiment.public).named(class_names)
    return TrainingData.of(public.select(_rows(len(public))), experiment.image_size, 0.0, seed=0)


def _synthetic(folder: Path, size: int) -> TrainingData:
    images = read_images(folder, read_description(folder), size)
    rows = _rows(len(images))
    return TrainingData(images[rows], torch.from_numpy(images.index.labels[rows]), size, np.arange(len(rows)))


def _rows(count: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """A fair draw, the same each time: every class and client has its part, in whatever order they come."""
    return np.sort(generator(0, 6).permutation(count)[:MOST])
