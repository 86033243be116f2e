"""Copies: whether synthetic images are nearer to private images than chance has it.

Distances are between features of a classifier that never saw a private image. The control is a set of as many images
of the same kind that nobody trained on: without memorization, the nearest of both is as often the one as the other.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fglfast.base.config import Settings
from fglfast.lab.audit.roc import Interval, share
from fglfast.lab.nearest import nearest
from fglfast.shards.description import read_description
from fglfast.shards.index import read_images
from fglfast.training.batches import generator
from fglfast.training.evaluate import open_classifier
from fglfast.training.predict import features

MUCH_NEARER = 0.5  # of the distance to the nearest held-out image: what is called a copy
PAIRS = 10
QUANTILES = 101


class Copies(Settings):
    """How near synthetic images are to private ones.

    Attributes:
        synthetic: how many images were searched for.
        against: private images, and as many held out, among which the nearest was sought.
        nearer: share of synthetic images whose nearest private image is nearer than the nearest held out. Images that
            are nearest to one real image are decided together, by whether that one is private, so they count as one for
            the interval: as many independent trials as Kish's effective size of such groups.
        much_nearer: how many are less than half as far from a private image as from any held out.
        much_farther: the reverse, which chance brings as often.
        identical: synthetic images whose pixels are those of a private image.
        identical_held_out: of a held-out one.
        to_private: quantiles of the distances to the nearest private image, ascending.
        to_held_out: likewise.
    """

    synthetic: int
    against: int
    nearer: Interval
    much_nearer: int
    much_farther: int
    identical: int
    identical_held_out: int
    to_private: tuple[float, ...]
    to_held_out: tuple[float, ...]


@dataclass(frozen=True)
class Images:
    """Images, uint8, and their features, float32."""

    pixels_N3SS: Tensor
    features_NF: Tensor

    def __len__(self) -> int:
        return len(self.pixels_N3SS)

    def sample(self, count: int) -> "Images":
        """As many of them, drawn without replacement."""
        rows = np.sort(generator(0, 5).permutation(len(self))[:count])
        return Images(self.pixels_N3SS[rows], self.features_NF[rows])


@dataclass(frozen=True)
class SuspectedCopy:
    """A synthetic image [S,S,3], the private and the held-out image nearest to it, and the ratio of their distances."""

    synthetic: NDArray[np.uint8]
    private: NDArray[np.uint8]
    held_out: NDArray[np.uint8]
    ratio: float


def find_copies(
    synthetic: Path, judge: Path, private_N3SS: Tensor, held_out_M3SS: Tensor
) -> tuple[Copies, list[SuspectedCopy]]:
    """Search private images for copies in a synthetic data set.

    Args:
        synthetic: folder of `synthesize`.
        judge: a classifier that saw no private image; all images are at its size.
        private_N3SS: uint8.
        held_out_M3SS: images of the same kind that nothing was made of.

    Raises:
        BadInputError, IncompleteError: a folder cannot be used.
    """
    model, _, size = open_classifier(judge)
    images = read_images(synthetic, read_description(synthetic), size)
    synthetic_K3SS = images[range(len(images))]
    pixels = (synthetic_K3SS, private_N3SS, held_out_M3SS)
    made, private, held_out = (Images(some, features(model, some)) for some in pixels)
    return search(made, private, held_out)


def search(synthetic: Images, private: Images, held_out: Images) -> tuple[Copies, list[SuspectedCopy]]:
    """Search private images for what synthetic ones copy; also the pairs that are nearest against the control."""
    hashes, known, control = (_hashes(images) for images in (synthetic, private, held_out))
    count = min(len(private), len(held_out))
    private, held_out = private.sample(count), held_out.sample(count)
    (to_private_N, which_N), (to_held_out_N, control_N) = (
        nearest(synthetic.features_NF, others.features_NF) for others in (private, held_out)
    )
    nearer_N = np.where(to_private_N == to_held_out_N, 0.5, to_private_N < to_held_out_N)
    groups_2R = np.concatenate([np.bincount(which_N, nearer_N), np.bincount(control_N, 1 - nearer_N)])
    ratios_N = to_private_N / np.maximum(to_held_out_N, 1e-12)
    found = Copies(
        synthetic=len(synthetic),
        against=count,
        nearer=share(float(nearer_N.mean()), len(synthetic) ** 2 / float(np.square(groups_2R).sum())),
        much_nearer=int((to_private_N < MUCH_NEARER * to_held_out_N).sum()),
        much_farther=int((to_held_out_N < MUCH_NEARER * to_private_N).sum()),
        identical=sum(times for digest, times in hashes.items() if digest in known),
        identical_held_out=sum(times for digest, times in hashes.items() if digest in control),
        to_private=_quantiles(to_private_N),
        to_held_out=_quantiles(to_held_out_N),
    )
    pairs = [
        SuspectedCopy(
            _picture(synthetic, row),
            _picture(private, int(which_N[row])),
            _picture(held_out, int(control_N[row])),
            float(ratios_N[row]),
        )
        for row in np.argsort(ratios_N, kind="stable")[:PAIRS].tolist()
    ]
    return found, pairs


def _quantiles(distances_N: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in np.quantile(distances_N, np.linspace(0, 1, QUANTILES)))


def _hashes(images: Images) -> Counter[bytes]:
    return Counter(hashlib.sha256(pixels.numpy().tobytes()).digest() for pixels in images.pixels_N3SS)


def _picture(images: Images, row: int) -> NDArray[np.uint8]:
    return images.pixels_N3SS[row].permute(1, 2, 0).numpy()
