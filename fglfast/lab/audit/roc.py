"""How well scores tell members from others: the ROC curve and what is read off it.

Intervals come from a bootstrap over models and over images, each drawn anew with replacement on its own: the scores of
one model share that model, those of one image share that image, so they are not independent decisions. For crossed
rows and columns this is a little too wide, if anything (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics
1(2), 2007; Owen and Eckles, arXiv 1106.2125). The attack is not fitted anew: a model that is drawn twice would be its
own shadow.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.stats import beta

from fglfast.base.config import Settings

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Share = Annotated[float, Field(ge=0, le=1)]
RATES = (0.01, 0.001)  # false positive rates at which an attack is judged
CURVE_FROM, CURVE_POINTS = 1e-4, 121
CONFIDENCE = 0.95
REPLICATES = 1000


class Interval(Settings):
    """An estimate and where the true value is with 95% confidence."""

    value: Share
    low: Share
    high: Share

    @property
    def words(self) -> str:
        """Such as "3.1% (2.5% to 3.8%)"."""
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%})"


class Roc(Settings):
    """How an attack does.

    Attributes:
        members: how many were scored, over all models.
        others: how many that are no members.
        models: how many were attacked; with one, the intervals are those of this model, over images alone.
        auc: chance that a member scores above another image; a half is chance.
        advantage: the largest true minus false positive rate (Yeom et al., arXiv 1709.01604).
        caught: true positive rate at each of `RATES`; None where that rate is less than one of the others.
        curve: false and true positive rates.
    """

    members: int
    others: int
    models: int = 1
    auc: Interval
    advantage: Share
    caught: tuple[Interval | None, ...]
    curve: tuple[tuple[Share, Share], ...]


def share(value: float, trials: float) -> Interval:
    """A share of so many independent trials, with the exact interval (Clopper and Pearson 1934)."""
    hits, tail = value * trials, (1 - CONFIDENCE) / 2
    low = float(beta.ppf(tail, hits, trials - hits + 1)) if value > 0 else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, trials - hits)) if value < 1 else 1.0
    return Interval(value=value, low=min(low, value), high=max(high, value))


def roc(scores_SN: Floats, inside_SN: Bools) -> Roc:
    """Judge scores of images by models; members should have the higher ones.

    Args:
        scores_SN: by attacked model and image.
        inside_SN: whether the model learned from the image; somewhere one did, and somewhere one did not.
    """
    scores = _Scores.sorted(scores_SN, inside_SN)
    members, others = int(inside_SN.sum()), int((~inside_SN).sum())
    once = scores.climb(np.ones(scores_SN.shape[0]), np.ones(scores_SN.shape[1]))
    drawn = _bootstrap(scores, *scores_SN.shape)

    def caught(rate: float, values_R: Floats) -> Interval | None:
        if rate * others < 1:
            return None
        found = _interval(once.at(rate)[1], values_R)
        # Draws of nothing but misses, or hits, do not spread: it is at least as wide as of independent decisions.
        exact = share(found.value, members)
        return Interval(value=found.value, low=min(found.low, exact.low), high=max(found.high, exact.high))

    rates = (*RATES, *np.geomspace(CURVE_FROM, 1, CURVE_POINTS))
    return Roc(
        members=members,
        others=others,
        models=len(scores_SN),
        auc=_interval(once.area, drawn[:, 0]),
        advantage=float((once.true_G - once.false_G).max()),
        caught=tuple(caught(rate, values_R) for rate, values_R in zip(RATES, drawn.T[1:], strict=True)),
        curve=tuple(sorted({(0.0, 0.0), (1.0, 1.0), *(once.at(rate) for rate in rates)})),
    )


@dataclass(frozen=True)
class _Climb:
    """Shares of members and of others that lie above each threshold, from the highest down."""

    true_G: Floats
    false_G: Floats

    @property
    def area(self) -> float:
        """Under the curve; a tie counts a half."""
        return float(np.trapezoid(self.true_G, self.false_G))

    def at(self, rate: float) -> tuple[float, float]:
        """False and true positives above the lowest threshold above which at most this share of the others lies."""
        last = int(np.searchsorted(self.false_G, rate + 1e-12, side="right")) - 1
        return float(self.false_G[last]), float(self.true_G[last])


@dataclass(frozen=True)
class _Scores:
    """All scores from the highest down: the model and the image of each, whether it is a member's, where ties begin."""

    model_P: NDArray[np.intp]
    image_P: NDArray[np.intp]
    inside_P: Bools
    first_G: NDArray[np.intp]

    @classmethod
    def sorted(cls, scores_SN: Floats, inside_SN: Bools) -> "_Scores":
        order_P = np.argsort(-scores_SN, axis=None, kind="stable")
        descending_P = scores_SN.ravel()[order_P]
        first_G = np.flatnonzero(np.append(True, descending_P[1:] != descending_P[:-1]))
        model_P, image_P = np.unravel_index(order_P, scores_SN.shape)
        return cls(model_P, image_P, inside_SN.ravel()[order_P], first_G)

    def climb(self, models_S: Floats, images_N: Floats) -> _Climb:
        """With each model and image counting so many times."""
        weights_P = models_S[self.model_P] * images_N[self.image_P]
        above = (
            np.append(0.0, np.add.reduceat(weights_P * mask_P, self.first_G).cumsum())
            for mask_P in (self.inside_P, ~self.inside_P)
        )
        return _Climb(*(above_G / max(above_G[-1], 1.0) for above_G in above))


def _bootstrap(scores: _Scores, models: int, images: int) -> Floats:
    """Area, and true positives at each of `RATES`, in draws that hold members and others [R,1+rates]."""
    draws, found = np.random.default_rng(0), []
    for _ in range(REPLICATES):
        weights = (draws.multinomial(size, np.full(size, 1 / size)).astype(np.float64) for size in (models, images))
        climb = scores.climb(*weights)
        if climb.true_G[-1] and climb.false_G[-1]:
            found.append([climb.area, *(climb.at(rate)[1] for rate in RATES)])
    return np.array(found)


def _interval(value: float, values_R: Floats) -> Interval:
    """The middle 95% of the draws, and the value."""
    low, high = np.quantile(values_R, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    low, value, high = np.clip([min(low, value), value, max(high, value)], 0, 1).tolist()  # the last bit may be over
    return Interval(value=value, low=low, high=high)
