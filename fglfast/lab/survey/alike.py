"""Images that look alike, by their pixels at a small size: no network judges."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fglfast.images.labelled import LabelledImages
from fglfast.lab.nearest import nearest

SIDE = 16
# Root mean square of the differences of two images' levels (0 to 255) at that size. Of 8,000 photographs of
# Fashion-MNIST, all on one ground, a single pair is as near; half of them have no other within 26 levels.
ALIKE = 6.0
PAIRS = 12


@dataclass(frozen=True)
class AlikePair:
    """Two images of one data set, or of two: their places, and the root mean square of their differences in levels."""

    one: int
    other: int
    levels: float


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """An image as small as it is compared: uint8 [SIDE,SIDE,3]."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def twins(thumbnails_NSS3: NDArray[np.uint8]) -> list[AlikePair]:
    """Each image with the one that it is most like, where the two are alike; the most alike first."""
    return _alike(*nearest(_vectors(thumbnails_NSS3)))


def copies(thumbnails_NSS3: NDArray[np.uint8], others: LabelledImages, size: int) -> list[AlikePair]:
    """Each image with the one of other images that it is most like, where the two are alike; the most alike first."""
    small = [thumbnail(Image.fromarray(others.pixels(row, size))) for row in range(len(others))]
    return _alike(*nearest(_vectors(thumbnails_NSS3), _vectors(np.stack(small))))


def _alike(levels_N: NDArray[np.float64], which_N: NDArray[np.int64]) -> list[AlikePair]:
    order = np.argsort(levels_N, kind="stable")
    return [AlikePair(int(k), int(which_N[k]), float(levels_N[k])) for k in order if levels_N[k] < ALIKE]


def _vectors(thumbnails_NSS3: NDArray[np.uint8]) -> Tensor:
    """Such that a distance is a root mean square."""
    vectors_NF = torch.from_numpy(thumbnails_NSS3).flatten(1).double()
    return vectors_NF / math.sqrt(vectors_NF.shape[1])
