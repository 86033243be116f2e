"""How many images of a class each row gets. Whole numbers in exact arithmetic, so every machine allots alike."""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def allot(total: int, counts: Ints) -> Ints:
    """Share `total` in proportion to counts by largest remainder (Hamilton); ties go to the first."""
    weight = sum(int(count) for count in counts)
    shares = [divmod(total * int(count), weight) for count in counts]
    allotted = np.array([whole for whole, _ in shares], dtype=np.int64)
    order = sorted(range(len(shares)), key=lambda k: -shares[k][1])
    allotted[order[: total - int(allotted.sum())]] += 1
    return allotted


def allot_rows(total: int, counts: Ints, clients: Ints, max_share: float) -> Ints:
    """Share a class among its rows [R], so that no client's rows get more than its cap where others hold the class too.

    The cap is `max_share` of the total, or an equal part where that is more. What is cut goes to the other clients in
    proportion to their counts. Where nobody is above the cap, it is `allot`.

    Args:
        total: images of the class.
        counts: private images behind each row [R].
        clients: whose each row is [R].
        max_share: above 0; from 1 on nothing is cut.
    """
    of_row = allot(total, counts)
    holders, which = np.unique(clients, return_inverse=True)
    cap = max(int(Fraction(str(max_share)) * total), -(-total // len(holders)))
    if max_share >= 1 or (_sums(of_row, which, len(holders)) <= cap).all():
        return of_row
    quotas = _capped(total, _sums(counts, which, len(holders)), cap)
    for holder, quota in enumerate(quotas):
        rows = np.flatnonzero(which == holder)
        of_row[rows] = allot(int(quota), counts[rows])
    return of_row


def _capped(total: int, counts: Ints, cap: int) -> Ints:
    """Share `total` in proportion to counts, none above the cap; the caps together are at least the total."""
    quotas, held = allot(total, counts), np.zeros(len(counts), dtype=bool)
    while (quotas > cap).any():
        held |= quotas > cap
        quotas[held] = cap
        quotas[~held] = allot(total - cap * int(held.sum()), counts[~held])
    return quotas


def _sums(values: Ints, which: Ints, groups: int) -> Ints:
    sums = np.zeros(groups, dtype=np.int64)
    np.add.at(sums, which, values)
    return sums
