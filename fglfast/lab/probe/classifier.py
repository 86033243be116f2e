"""A small classifier of small images, trained in memory in seconds. Knows no generator and no file."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy

from fglfast.base.console import Progress
from fglfast.training.augment import Augmentation, normalise
from fglfast.training.batches import epoch_rows, step_seed
from fglfast.training.model import build_model, decay_groups
from fglfast.training.settings import TrainSettings

SIDE = 32  # pixels that it sees
ARCH = "resnet10-tiny"
BATCH, EPOCHS, LEAST_STEPS = 32, 20, 150
SEED = 0


class Classifier:
    """Learns from labelled images when it is made, by the optimiser and schedule of the global model.

    Args:
        pixels_NSS3: uint8 images.
        labels_N: class of each, from 0.
        classes: how many there are.
        name: of its progress.
    """

    def __init__(self, pixels_NSS3: NDArray[np.uint8], labels_N: NDArray[np.int64], classes: int, name: str) -> None:
        batch = min(BATCH, len(labels_N))
        steps = len(labels_N) // batch  # of an epoch
        settings = TrainSettings(arch=ARCH, batch_size=batch, epochs=max(EPOCHS, -(-LEAST_STEPS // steps)), seed=SEED)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.model: Any = build_model(settings.arch, [str(label) for label in range(classes)])
            with Progress(name, settings.epochs * steps, unit="step") as progress:
                self._fit(_tensor(pixels_NSS3), torch.from_numpy(labels_N), settings, steps, progress)
        self.model.eval()

    def _fit(
        self, images_N3SS: Tensor, labels_N: Tensor, settings: TrainSettings, steps: int, progress: Progress
    ) -> None:
        groups = decay_groups(self.model, settings.weight_decay)
        optimizer = torch.optim.AdamW(groups, settings.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: settings.rate_factor(step, settings.epochs * steps)
        )
        augmentation = Augmentation(SIDE, None, flip=False, erasing=0.0)  # mirrored digits are other digits
        self.model.train()
        for epoch in range(settings.epochs):
            every = epoch_rows(np.arange(len(labels_N)), settings.batch_size, settings.seed, epoch)
            for step, rows in enumerate(every):
                batch_B3SS = augmentation(images_N3SS[rows], step_seed(settings.seed, epoch, step, 0))
                logits_BK = self.model(pixel_values=batch_B3SS).logits
                loss = cross_entropy(logits_BK, labels_N[rows], label_smoothing=settings.label_smoothing)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                progress.advance(1)

    @torch.inference_mode()
    def features(self, pixels_NSS3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What it tells classes apart by, [N,D]."""
        features_ND: Tensor = self.model.resnet(_tensor(pixels_NSS3)).pooler_output.flatten(1)
        return features_ND.numpy()

    @torch.inference_mode()
    def names(self, pixels_NSS3: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The class that it takes each image for, [N]."""
        labels_N: Tensor = self.model(pixel_values=_tensor(pixels_NSS3)).logits.argmax(1)
        return labels_N.numpy()


def _tensor(pixels_NSS3: NDArray[np.uint8]) -> Tensor:
    """Images as the classifier sees them: float32 [N,3,SIDE,SIDE] in [-1,1]."""
    images_N3SS = normalise(torch.from_numpy(np.ascontiguousarray(pixels_NSS3)).permute(0, 3, 1, 2))
    return adaptive_avg_pool2d(images_N3SS, SIDE)
