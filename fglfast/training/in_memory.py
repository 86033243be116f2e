"""A classifier trained in memory, in seconds: no folder, no checkpoint, no DeepSpeed."""

from collections.abc import Sequence
from typing import Any

import torch

from fglfast.training.arch_trial import check_takes
from fglfast.training.batches import TrainingData
from fglfast.training.fit import PlainEngine, fit, optimizer_of, schedule_of
from fglfast.training.model import build_model
from fglfast.training.predict import placed
from fglfast.training.settings import TrainSettings


def trained(data: TrainingData, class_names: Sequence[str], settings: TrainSettings, name: str = "") -> Any:
    """Train by the optimiser and schedule of the global model; the same data and settings give the same weights.

    The classifier is returned where it computes. There has to be a batch to learn from; class names are in the order of
    the labels; progress is shown if it has a name.

    Raises:
        UsageError: the architecture cannot be built, or cannot take the images.
    """
    check_takes(settings.arch, class_names, data.size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = placed(build_model(settings.arch, class_names))
    optimizer = optimizer_of(model, settings)
    steps = settings.epochs * (len(data.train) // settings.batch_size)
    fit(PlainEngine(model, optimizer, schedule_of(optimizer, settings, steps)), data, settings, name=name)
    return model
