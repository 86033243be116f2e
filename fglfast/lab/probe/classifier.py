"""A small classifier of small images, trained in memory in seconds."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from fglfast.training.augment import normalise
from fglfast.training.batches import TrainingData
from fglfast.training.in_memory import trained
from fglfast.training.predict import features, predict
from fglfast.training.settings import TrainSettings

SIDE = 32  # pixels that it sees
ARCH = "resnet10-tiny"
BATCH, EPOCHS, LEAST_STEPS = 32, 20, 150
SEED = 0


class Classifier:
    """Learns from labelled images when it is made, by the optimiser and schedule of the global model."""

    def __init__(self, pixels_NSS3: NDArray[np.uint8], labels_N: NDArray[np.int64], classes: int, name: str) -> None:
        batch = min(BATCH, len(labels_N))
        steps = len(labels_N) // batch  # of an epoch
        settings = TrainSettings(
            arch=ARCH,
            batch_size=batch,
            epochs=max(EPOCHS, -(-LEAST_STEPS // steps)),
            seed=SEED,
            flip=False,  # mirrored digits are other digits
            erasing=0.0,
            channels_last=False,
        )
        rows = np.arange(len(labels_N))
        data = TrainingData(_seen(pixels_NSS3), torch.from_numpy(labels_N), SIDE, train=rows)
        self.model = trained(data, [str(label) for label in range(classes)], settings, name)

    def features(self, pixels_NSS3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What it tells classes apart by, [N,D]."""
        return features(self.model, _seen(pixels_NSS3)).numpy()

    def names(self, pixels_NSS3: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The class that it takes each image for, [N]."""
        return predict(self.model, _seen(pixels_NSS3)).argmax(1).numpy()


def _seen(pixels_NSS3: NDArray[np.uint8]) -> Tensor:
    """Images as the classifier sees them: float32 [N,3,SIDE,SIDE] in [-1,1]."""
    images_N3SS = normalise(torch.from_numpy(np.ascontiguousarray(pixels_NSS3)).permute(0, 3, 1, 2))
    return adaptive_avg_pool2d(images_N3SS, SIDE)
