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


def allot_rows(total: int, counts: Ints, rows: Ints, clients: Ints, max_share: float) -> Ints:
    """Share a class among its rows, so that no client's claims get more than its cap where others hold the class too.

    A claim is what one client says of one row; several may claim the same row. The cap is `max_share` of the total, or
    an equal part where that is more. What is cut goes to the other clients in proportion to their counts. Where nobody
    is above the cap, it is `allot` of the rows' counts. No order of claims and no client's number changes it.

    Args:
        total: images of the class.
        counts: private images behind each claim [K].
        rows: which row each is of [K]; every number from 0 to R - 1 is there.
        clients: whose each is [K].
        max_share: above 0; from 1 on nothing is cut.

    Returns:
        Images of each row [R].
    """
    claimed = np.zeros(int(rows.max()) + 1, dtype=np.int64)
    np.add.at(claimed, rows, counts)
    of_row = allot(total, claimed)
    if max_share >= 1:
        return of_row
    holders = _ordered(counts, rows, clients)
    cap = max(int(Fraction(str(max_share)) * total), -(-total // len(holders)))
    part = [int(of_row[row]) * Fraction(int(count), int(claimed[row])) for row, count in zip(rows, counts, strict=True)]
    if all(sum((part[k] for k in own), Fraction()) <= cap for own in holders):
        return of_row
    quotas = _capped(total, np.array([counts[own].sum() for own in holders]), cap)
    of_row = np.zeros_like(of_row)
    for own, quota in zip(holders, quotas, strict=True):
        np.add.at(of_row, rows[own], allot(int(quota), counts[own]))
    return of_row


def _ordered(counts: Ints, rows: Ints, clients: Ints) -> list[Ints]:
    """The claims of each client by row, the clients by what they claim: equal ones may change places."""
    holders = [np.flatnonzero(clients == client) for client in np.unique(clients)]
    ordered = [own[np.argsort(rows[own], kind="stable")] for own in holders]
    return sorted(ordered, key=lambda own: (rows[own].tolist(), counts[own].tolist()))


def _capped(total: int, counts: Ints, cap: int) -> Ints:
    """Share `total` in proportion to counts, none above the cap; the caps together are at least the total."""
    quotas, held = allot(total, counts), np.zeros(len(counts), dtype=bool)
    while (quotas > cap).any():
        held |= quotas > cap
        quotas[held] = cap
        quotas[~held] = allot(total - cap * int(held.sum()), counts[~held])
    return quotas
