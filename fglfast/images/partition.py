"""Split a data set over clients. Knows only labels and domains."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fglfast.base.errors import UsageError

Indices = NDArray[np.int64]
MIN_IMAGES = 10  # of a client, as NIID-Bench has it
MOST_DRAWS = 1_000


def partition_iid(labels: Indices, clients: int, seed: int, min_images: int = 1) -> list[Indices]:
    """Shuffle and deal out evenly; every index once.

    Raises:
        UsageError: too few images.
    """
    _check(len(labels), clients, min_images)
    order = np.random.default_rng(seed).permutation(len(labels))
    return [np.sort(part) for part in np.array_split(order, clients)]


def partition_dirichlet(
    labels: Indices, clients: int, beta: float, seed: int, min_images: int = MIN_IMAGES
) -> list[Indices]:
    """Split each class over the clients by proportions drawn from Dir(beta); every index once.

    Yurochkin et al., arXiv 1905.12022, without the balancing that their code adds. As in NIID-Bench (Li et al., arXiv
    2102.02079), all classes are drawn again until every client has `min_images`, so a client is never patched up with
    images that no proportion gave it. Sizes differ widely: at a beta of 0.01 a class goes to one client almost whole,
    and a client of five holds one to four of ten classes.

    Raises:
        UsageError: beta is not positive, there are too few images, or no draw left every client enough.
    """
    _check(len(labels), clients, min_images, beta)
    draw = np.random.default_rng(seed)
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for _ in range(MOST_DRAWS):
        owner = np.empty(len(labels), dtype=np.int64)
        for members in classes:
            rows = draw.permutation(members)
            ends = np.round(np.cumsum(draw.dirichlet([beta] * clients)) * len(rows)).astype(np.int64)
            owner[rows] = np.searchsorted(ends[:-1], np.arange(len(rows)), side="right")
        if np.bincount(owner, minlength=clients).min() >= min_images:
            return [np.flatnonzero(owner == client) for client in range(clients)]
    raise _never(clients, beta, min_images)


def partition_dirichlet_classes(
    labels: Indices, clients: int, beta: float, seed: int, min_images: int = 1
) -> list[Indices]:
    """Give each client as many images, its classes by proportions drawn from Dir(beta p); every index once.

    Hsu et al., arXiv 1909.06335: p is the share of each class in the data. Images are drawn without replacement, and a
    class that is used up counts no longer: the last clients take what is left.

    Raises:
        UsageError: beta is not positive, or there are too few images.
    """
    _check(len(labels), clients, min_images, beta)
    draw = np.random.default_rng(seed)
    names, sizes = np.unique(labels, return_counts=True)
    left = [draw.permutation(np.flatnonzero(labels == name)) for name in names]
    parts = []
    for whole in np.array_split(np.arange(len(labels)), clients):
        wanted = draw.dirichlet(beta * sizes / len(labels))
        taken: list[Indices] = []
        while missing := len(whole) - sum(map(len, taken)):
            there = np.array([len(rows) for rows in left])
            odds = np.where(there > 0, wanted, 0.0)
            if not odds.sum() > 0:  # a small beta: nothing that it wants is left
                odds[there > 0] = draw.dirichlet(beta * sizes[there > 0] / len(labels))
            for label, count in enumerate(draw.multinomial(missing, odds / odds.sum())):
                taken.append(left[label][:count])
                left[label] = left[label][count:]
        parts.append(np.sort(np.concatenate(taken)))
    return parts


def partition_classes(labels: Indices, clients: int, classes: int, seed: int, min_images: int = 1) -> list[Indices]:
    """Give each client so many classes, and share each class evenly over those that have it; every index once.

    The quantity-based label skew of NIID-Bench (Li et al., arXiv 2102.02079): client k has class k, so that no class is
    left out, and others at random.

    Raises:
        UsageError: there are too few classes, clients or images.
    """
    _check(len(labels), clients, min_images)
    names = np.unique(labels)
    if not 1 <= classes <= len(names) or clients * classes < len(names):
        raise UsageError(
            f"{clients} clients of {classes} classes each cannot share out {len(names)} classes",
            "choose classes_per_client so that all are given out",
        )
    draw = np.random.default_rng(seed)
    holders: list[list[int]] = [[] for _ in names]
    owed = np.full(clients, classes)
    for place in range(len(names)):
        holders[place].append(place % clients)
        owed[place % clients] -= 1
    for client in range(clients):
        free = [place for place in range(len(names)) if client not in holders[place]]
        for place in draw.permutation(free)[: max(0, owed[client])]:
            holders[int(place)].append(client)
    parts: list[list[Indices]] = [[] for _ in range(clients)]
    for place, name in enumerate(names):
        rows = draw.permutation(np.flatnonzero(labels == name))
        for client, part in zip(holders[place], np.array_split(rows, len(holders[place])), strict=True):
            parts[client].append(part)
    return _enough([np.sort(np.concatenate(part)) for part in parts], min_images)


def partition_shards(labels: Indices, clients: int, shards: int, seed: int, min_images: int = 1) -> list[Indices]:
    """Sort by label, cut into equal shards, and deal out so many to each client; every index once.

    McMahan et al., arXiv 1602.05629.

    Raises:
        UsageError: too few images for so many shards.
    """
    _check(len(labels), clients * max(1, shards), 1)
    draw = np.random.default_rng(seed)
    rows = draw.permutation(len(labels))
    ordered = rows[np.argsort(labels[rows], kind="stable")]
    cut, order = np.array_split(ordered, clients * shards), draw.permutation(clients * shards)
    parts = [np.sort(np.concatenate([cut[shard] for shard in order[k::clients]])) for k in range(clients)]
    return _enough(parts, min_images)


def partition_quantity(
    labels: Indices, clients: int, beta: float, seed: int, min_images: int = MIN_IMAGES
) -> list[Indices]:
    """Clients of different sizes by proportions drawn from Dir(beta), each with the classes of all; every index once.

    Quantity skew of NIID-Bench (Li et al., arXiv 2102.02079), drawn again until every client has `min_images`.

    Raises:
        UsageError: beta is not positive, there are too few images, or no draw left every client enough.
    """
    _check(len(labels), clients, min_images, beta)
    draw = np.random.default_rng(seed)
    for _ in range(MOST_DRAWS):
        order = draw.permutation(len(labels))
        ends = np.round(np.cumsum(draw.dirichlet([beta] * clients))[:-1] * len(labels)).astype(np.int64)
        parts = [np.sort(part) for part in np.split(order, ends)]
        if min(map(len, parts)) >= min_images:
            return parts
    raise _never(clients, beta, min_images)


def partition_domain_labels(
    domains: Sequence[str], labels: Indices, clients: int, beta: float, seed: int, min_images: int = 1
) -> list[Indices]:
    """So many clients of each domain, its images split over them as `partition_dirichlet` does; every index once.

    Raises:
        UsageError: as `partition_dirichlet`, for a domain.
    """
    parts = []
    for number, members in enumerate(partition_by_domain(domains)):
        parts += [
            members[part] for part in partition_dirichlet(labels[members], clients, beta, seed + number, min_images)
        ]
    return parts


def partition_by_domain(domains: Sequence[str]) -> list[Indices]:
    """One client a distinct domain, in the order of their names."""
    names, which = np.unique(np.asarray(domains), return_inverse=True)
    return [np.flatnonzero(which == client) for client in range(len(names))]


def _enough(parts: list[Indices], min_images: int) -> list[Indices]:
    if (least := min(map(len, parts))) < min_images:
        raise UsageError(f"a client would have {least} images", "ask for fewer clients or a smaller min_images")
    return parts


def _never(clients: int, beta: float, min_images: int) -> UsageError:
    return UsageError(
        f"{clients} clients, beta {beta:g}: none of {MOST_DRAWS:,} draws left every client {min_images} images",
        "ask for fewer clients, a larger beta or a smaller min_images",
    )


def _check(images: int, clients: int, min_images: int, beta: float = 1.0) -> None:
    needed = clients * max(1, min_images)
    if needed < 1 or images < needed:
        raise UsageError(
            f"{images} images cannot be shared as asked (at least {needed} needed)", "ask for fewer clients"
        )
    if not beta > 0:
        raise UsageError(f"beta is {beta}", "give a positive number; small is skewed")
