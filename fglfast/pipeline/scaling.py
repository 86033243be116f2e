"""Accuracy at numbers of images that nobody trained on, from small pilots: a scaling law, and how far to trust it.

As in projektor (Kang et al., arXiv 2307.02460), in two stages. At the pilots' sizes the error is regressed on the
optimal-transport distance between a pilot's images and those that judge; then it is carried on to other sizes: it falls
as a power of their number (Hestness et al., arXiv 1712.00409). projektor has accuracy linear in the logarithm, which
foretells too much (benchmarks/LOG.md). Knows no generator and no file.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import t as student

from fglfast.base.config import Settings

Floats = NDArray[np.float64]
LEVEL = 0.9  # of an interval
MOST_MOVED = 200  # images of a class that a distance looks at
POINTS = 100  # of accuracy in 1
THOUSAND = 1000  # images
LEAST = 1e-3  # error that has a logarithm
MOST_LOG = 40.0  # of a number of images


class Pilot(Settings):
    """A small classifier that was trained on a part of the images.

    Attributes:
        images_per_class: how many its part has; where no real image judges, a fifth of those do, and it saw the others.
        part: which of the parts of that size.
        accuracy: on the images that judge.
        distance: by optimal transport, of its images from those; None where it was not measured.
    """

    images_per_class: int
    part: int
    accuracy: float
    distance: float | None = None


class Predicted(Settings):
    """Accuracy at a number of images a class, and where it lies nine times in ten."""

    images_per_class: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Law:
    """ln(1 - accuracy) = level + slope ln(n / middle) + pull (distance - what is usual at n), n images a class.

    At the distance that is usual the last term is none: what distances explain of the pilots' differences is taken out
    of the interval, and moves nothing. The interval is that of independent pilots; parts of one another are less so.

    Attributes:
        middle: geometric mean of the pilots' images a class.
        level: logarithm of the error there.
        slope: the power; negative where more images bring more.
        pull: what a distance of 1 more brings; 0 where distances are left out.
        noise: standard deviation of a pilot's logarithm beside the law.
        free: degrees of freedom that it was reckoned from.
        pilots: how many.
        spread: sum of the squares of ln(n / middle).
    """

    middle: float
    level: float
    slope: float
    pull: float
    noise: float
    free: int
    pilots: int
    spread: float

    @classmethod
    def of(cls, pilots: Sequence[Pilot]) -> "Law":
        """Least squares over three pilots or more, of two sizes at least; of four or more, distances count too."""
        logs_P = np.log([pilot.images_per_class for pilot in pilots])
        wrong_P = np.log([max(1 - pilot.accuracy, LEAST) for pilot in pilots])
        size_P2 = np.stack([np.ones(len(pilots)), logs_P - logs_P.mean()], axis=1)
        (level, slope), left_P = _least_squares(size_P2, wrong_P)
        free, pull = len(pilots) - 2, 0.0
        odd_P = _oddness(size_P2, pilots)
        if free > 1 and (odd_P**2).sum() > 1e-18:
            (pull,), rest_P = _least_squares(odd_P[:, None], left_P)
            if _noise(rest_P, free - 1) < _noise(left_P, free):
                left_P, free = rest_P, free - 1
            else:
                pull = 0.0
        spread = float((size_P2[:, 1] ** 2).sum())
        noise = _noise(left_P, free)
        middle = math.exp(logs_P.mean())
        return cls(middle, float(level), float(slope), float(pull), noise, free, len(pilots), spread)

    def at(self, images_per_class: int) -> Predicted:
        """What one more classifier would reach with so many images a class, and the interval of that."""
        log = math.log(images_per_class / self.middle)
        error = self.level + self.slope * log
        spread = self.noise * math.sqrt(1 + 1 / self.pilots + log**2 / self.spread)
        reach = spread * float(student.ppf((1 + LEVEL) / 2, self.free))
        accuracy, low, high = (round(max(0.0, 1 - math.exp(end)), 6) for end in (error, error + reach, error - reach))
        return Predicted(images_per_class=images_per_class, accuracy=accuracy, low=low, high=high)

    def gain(self, images_per_class: int, classes: int) -> float:
        """Points of accuracy that a thousand more images bring, of all classes together, at the rate of the first."""
        error = math.exp(self.level + self.slope * math.log(images_per_class / self.middle))
        return POINTS * -self.slope * error / images_per_class * THOUSAND / classes

    def until(self, gain: float, classes: int) -> int:
        """Images a class from which on a thousand more bring less than `gain` points; 0 if they never bring so much."""
        if self.slope >= 0:
            return 0
        log = math.log(self.gain(1, classes) / gain) / (1 - self.slope)
        return round(math.exp(min(log, MOST_LOG)))


def transport_distance(
    features_NF: Floats, labels_N: NDArray[np.int64], others_MF: Floats, others_labels_M: NDArray[np.int64]
) -> float:
    """Optimal-transport distance of two labelled sets of images, no image leaving its class (arXiv 2002.02923).

    The mean, over the classes that both hold, of the Euclidean cost of moving one class's features onto the other's.
    Where one has fewer, its images count as often as it takes, equally often but for one.
    """
    costs = []
    for label in np.intersect1d(labels_N, others_labels_M):
        own, other = features_NF[labels_N == label], others_MF[others_labels_M == label]
        count = min(MOST_MOVED, max(len(own), len(other)))
        cost_KK = cdist(_spread(own, count), _spread(other, count))
        costs.append(cost_KK[linear_sum_assignment(cost_KK)].mean())
    return float(np.mean(costs))


def _spread(features_NF: Floats, count: int) -> Floats:
    """So many rows, evenly: some left out, or all equally often but for one."""
    return features_NF[np.arange(count) * len(features_NF) // count]


def _oddness(size_P2: Floats, pilots: Sequence[Pilot]) -> Floats:
    """How much farther each pilot's images are than is usual at their number [P]; 0 where that was not measured."""
    far_P = np.array([np.nan if pilot.distance is None else pilot.distance for pilot in pilots])
    known_P, odd_P = np.isfinite(far_P), np.zeros(len(pilots))
    if known_P.any():
        odd_P[known_P] = _least_squares(size_P2[known_P], far_P[known_P])[1]
    return odd_P


def _least_squares(design_PK: Floats, right_P: Floats) -> tuple[Floats, Floats]:
    """Coefficients [K], and what they leave [P]."""
    found = np.linalg.lstsq(design_PK, right_P)[0].astype(np.float64)
    return found, right_P - design_PK @ found


def _noise(left_P: Floats, free: int) -> float:
    return math.sqrt(float((left_P**2).sum()) / free)
