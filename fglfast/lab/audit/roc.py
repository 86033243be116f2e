"""How well scores tell members from others: the ROC curve and what is read off it. Knows no model."""

import math
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.stats import binomtest, norm, rankdata

from fglfast.base.config import Settings

Floats = NDArray[np.float64]
Share = Annotated[float, Field(ge=0, le=1)]
RATES = (0.01, 0.001)  # false positive rates at which an attack is judged
CURVE_FROM, CURVE_POINTS = 1e-4, 121
CONFIDENCE = 0.95


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
        members: how many were scored.
        others: how many that are no members.
        auc: chance that a member scores above another image; a half is chance.
        advantage: the largest true minus false positive rate (Yeom et al., arXiv 1709.01604).
        caught: true positive rate at each of `RATES`; None where that rate is less than one of the others.
        curve: false and true positive rates.
    """

    members: int
    others: int
    auc: Interval
    advantage: Share
    caught: tuple[Interval | None, ...]
    curve: tuple[tuple[Share, Share], ...]


def share(successes: float, trials: int) -> Interval:
    """A share of independent trials, with the exact interval (Clopper and Pearson 1934)."""
    found = binomtest(int(successes), trials).proportion_ci(CONFIDENCE, method="exact")
    return Interval(value=successes / trials, low=float(found.low), high=float(found.high))


def roc(members: Floats, others: Floats) -> Roc:
    """Judge scores; members should have the higher ones.

    The interval of the area is that of Hanley and McNeil (1982). The intervals of `caught` take the threshold as given.
    """
    thresholds_R = {rate: _threshold(others, rate) for rate in (*RATES, *np.geomspace(CURVE_FROM, 1, CURVE_POINTS))}
    caught = tuple(
        share(int((members > thresholds_R[rate]).sum()), len(members)) if rate * len(others) >= 1 else None
        for rate in RATES
    )
    pairs = {(float((others > cut).mean()), float((members > cut).mean())) for cut in thresholds_R.values()}
    cuts = np.unique(np.concatenate([members, others]))
    above = (1 - np.searchsorted(np.sort(scores), cuts, side="right") / len(scores) for scores in (members, others))
    gaps = np.subtract(*above)
    return Roc(
        members=len(members),
        others=len(others),
        auc=_area(members, others),
        advantage=max(0.0, float(gaps.max())),
        caught=caught,
        curve=tuple(sorted({(0.0, 0.0), (1.0, 1.0), *pairs})),
    )


def _threshold(others: Floats, rate: float) -> float:
    """The lowest score above which at most this share of the others lies."""
    descending = np.sort(others)[::-1]
    allowed = math.floor(rate * len(others) + 1e-9)
    return float(descending[allowed]) if allowed < len(others) else -math.inf


def _area(members: Floats, others: Floats) -> Interval:
    ranks = rankdata(np.concatenate([members, others]))
    m, n = len(members), len(others)
    area = float((ranks[:m].sum() - m * (m + 1) / 2) / (m * n))
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (m - 1) * (first - area**2) + (n - 1) * (second - area**2)) / (m * n)
    reach = float(norm.ppf(0.5 + CONFIDENCE / 2)) * math.sqrt(max(0.0, variance))
    return Interval(value=area, low=max(0.0, area - reach), high=min(1.0, area + reach))
