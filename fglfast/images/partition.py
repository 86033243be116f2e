"""Split a data set over clients. Knows only labels and domains."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fglfast.base.errors import UsageError

Indices = NDArray[np.int64]


def partition_iid(labels: Indices, clients: int, seed: int) -> list[Indices]:
    """Shuffle and deal out evenly; every index once.

    Raises:
        UsageError: more clients than images.
    """
    _check(len(labels), clients)
    order = np.random.default_rng(seed).permutation(len(labels))
    return [np.sort(part) for part in np.array_split(order, clients)]


def partition_dirichlet(labels: Indices, clients: int, beta: float, seed: int, min_images: int = 1) -> list[Indices]:
    """Split each class by proportions drawn from Dir(beta) (Hsu et al., arXiv 1909.06335).

    Small beta leaves clients with nothing, so each client short of `min_images` is then given images
    from the one that has most, one at a time.

    Raises:
        UsageError: beta is not positive, or there are too few images.
    """
    _check(len(labels), clients * max(1, min_images))
    if not beta > 0:
        raise UsageError(f"beta is {beta}", "give a positive number; small is skewed")
    draw = np.random.default_rng(seed)
    owner = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = draw.permutation(np.flatnonzero(labels == label))
        ends = np.round(np.cumsum(draw.dirichlet([beta] * clients)) * len(rows)).astype(np.int64)
        owner[rows] = np.searchsorted(ends[:-1], np.arange(len(rows)), side="right")
    while (sizes := np.bincount(owner, minlength=clients)).min() < min_images:
        richest = np.flatnonzero(owner == sizes.argmax())
        owner[richest[-1]] = sizes.argmin()
    return [np.flatnonzero(owner == client) for client in range(clients)]


def partition_by_domain(domains: Sequence[str]) -> list[Indices]:
    """One client a distinct domain, in the order of their names."""
    names, which = np.unique(np.asarray(domains), return_inverse=True)
    return [np.flatnonzero(which == client) for client in range(len(names))]


def _check(images: int, needed: int) -> None:
    if needed < 1 or images < needed:
        raise UsageError(
            f"{images} images cannot be shared as asked (at least {needed} needed)", "ask for fewer clients"
        )
