"""What clients say they hold, where it decides what is drawn: whose claim outweighs those of all others.

Nobody can count another's images. Honest clients' claims differ by orders of magnitude: with a Dirichlet beta of 0.01
one client has all but an image or two of a class. So no claim is cut. One that an honest client hardly has is asked for
by name, and only where it leaves others' prompts undrawn.
"""

from collections.abc import Collection, Mapping

import numpy as np

from fglfast.base.console import note
from fglfast.base.errors import BadInputError
from fglfast.payload.merge import Ints, Merged

HONEST = 1_000_000  # images of one class; the largest public labelled sets have a few hundred thousand
OUTWEIGHS = 100  # times what all others together claim of a class: they keep less than one image in a hundred
FEWEST = 3  # clients; of two, one always claims more than all others


def outweighing(claimed: Mapping[str, int]) -> dict[str, int]:
    """Who claims more images than all others together, with what those claim."""
    total = sum(claimed.values())
    return {who: total - images for who, images in claimed.items() if 0 < total - images < images}


def incredible(images: int, others: int) -> bool:
    """Whether no honest client makes a claim of so many images beside what all others together claim."""
    return images > HONEST and 0 < others * OUTWEIGHS < images


def contested(merged: Merged) -> Ints:
    """Classes that have several distinct prompts, ascending: elsewhere counts decide nothing."""
    domains = {domain: number for number, domain in enumerate(dict.fromkeys(merged.domains))}
    of_client = np.array([domains[domain] for domain in merged.domains], dtype=np.int64)
    prompts = np.stack([merged.labels, merged.content, of_client[merged.row_client]], axis=1)
    labels, distinct = np.unique(np.unique(prompts, axis=0)[:, 0], return_counts=True)
    return labels[distinct > 1]


def excessive(merged: Merged, trusted: Collection[str]) -> dict[str, str]:
    """Clients but those trusted whose claim of a contested class has to be asked for by name, and what they claim."""
    labels = contested(merged)
    if merged.counts.sum() <= HONEST or not len(labels):
        return {}
    found: dict[str, str] = {}
    rows = np.flatnonzero(np.isin(merged.labels, labels))
    pairs, which = np.unique(np.stack([merged.labels, merged.row_client])[:, rows], axis=1, return_inverse=True)
    claims, all_claims = np.zeros(pairs.shape[1], dtype=np.int64), np.zeros(len(merged.class_names), dtype=np.int64)
    np.add.at(claims, which, merged.counts[rows])
    np.add.at(all_claims, pairs[0], claims)
    for place in np.flatnonzero(claims > HONEST).tolist():
        (label, number), images = pairs[:, place].tolist(), int(claims[place])
        client, others = merged.clients[number], int(all_claims[label]) - images
        if incredible(images, others) and client not in trusted:
            name = merged.class_names[label]
            words = f"claims {images:,} images of class {name!r}, all others together {others:,}"
            found.setdefault(client, words)
    return found


def check_claims(merged: Merged, trusted: Collection[str], max_share: float, option: str) -> None:
    """Refuse claims that are `excessive`, and say which outweigh all others; none do where every client is capped.

    `max_share` below 1 caps every client, and refuses none. `option` is by which a user names whom to trust.

    Raises:
        BadInputError: a client claims so much; who, of which class and how much is said.
    """
    if max_share < 1:
        return
    for client, words in excessive(merged, trusted).items():
        hint = f"if that is right, name the client: {option}; else leave its payload out"
        raise BadInputError(f"client {client!r} {words}: next to nothing of theirs would be drawn", hint)
    tell_outweighing(merged, trusted)


def tell_outweighing(merged: Merged, trusted: Collection[str]) -> None:
    """Say who claims more images of contested classes than all others together; of two clients one always does."""
    rows = np.isin(merged.labels, contested(merged))
    claims = np.zeros(len(merged.clients), dtype=np.int64)
    np.add.at(claims, merged.row_client[rows], merged.counts[rows])
    if np.count_nonzero(claims) < FEWEST:
        return
    for client, others in outweighing(dict(zip(merged.clients, claims.tolist(), strict=True))).items():
        if client not in trusted:
            images = int(claims[merged.clients.index(client)])
            note(f"client {client!r} claims {images:,} images, more than all others together ({others:,})")
