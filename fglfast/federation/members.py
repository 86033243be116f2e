"""Who is in a federation: settled once, by payloads that were accepted.

From then on a client's name and its node are one: nobody else is asked to train or to judge, is averaged, or gets the
model. With node authentication a node keeps its number when it restarts.
"""

import statistics
from collections.abc import Collection, Iterable, Mapping

from fglfast.base.config import Settings
from fglfast.base.console import note
from fglfast.payload.claims import FEWEST, incredible, outweighing


class Member(Settings):
    """One client.

    Attributes:
        name: in its payload.
        node: Flower's number of its node.
        images: how many its payload claims.
        key: public key that signed its payload; None where there is no list of keys.
    """

    name: str
    node: int
    images: int
    key: str | None = None


class Members:
    """The clients of a federation, in order of their names.

    Counts of `trusted` ones are taken as they are, however large; those in `without` were left out since.
    """

    def __init__(self, members: Iterable[Member], trusted: Collection[str] = (), without: Collection[str] = ()) -> None:
        self.all = tuple(sorted(members, key=lambda member: member.name))
        self.inside = tuple(member for member in self.all if member.name not in without)
        self.images = _bounded({member.name: member.images for member in self.inside}, trusted)

    @property
    def nodes(self) -> dict[int, str]:
        """Names by node."""
        return {member.node: member.name for member in self.inside}

    def weighted(self, values: Mapping[str, float]) -> float | None:
        """The mean of what some members say, each counting by the images that its payload claimed."""
        images = sum(self.images[name] for name in values)
        return sum(self.images[name] * value for name, value in values.items()) / images if images else None


def median(values: Mapping[str, float]) -> float | None:
    """What one of several members cannot set."""
    return statistics.median(values.values()) if values else None


def agreed(values: Mapping[str, float]) -> float | None:
    """The median of what enough members say that no one of them can set it; None of fewer."""
    return median(values) if len(values) >= FEWEST else None


def tell_claims(members: Iterable[Member], trusted: Collection[str]) -> None:
    """Name whoever claims more images than all others hold together, and what is made of that."""
    claimed = {member.name: member.images for member in members}
    for name, images in _bounded(claimed, trusted).items():
        if images != claimed[name]:
            others = sum(claimed.values()) - claimed[name]
            note(
                f"{name!r} claims {claimed[name]:,} images, all others together {others:,}: in an average it weighs as "
                f"{images:,} of those; if the claim is right, name it in the experiment's trusted_counts"
            )


def _bounded(claimed: dict[str, int], trusted: Collection[str]) -> dict[str, int]:
    """What each weighs: its claim, but no more than all others together, unless it is trusted.

    One that no honest client makes (see `fglfast.payload.claims`) weighs as the middle one of those that claim no more:
    a larger claim makes none credible.
    """
    weights = dict(claimed)

    def below(name: str) -> list[int]:
        return [images for who, images in weights.items() if who != name and images <= weights[name]]

    doubted = [name for name in claimed if name not in trusted]
    while found := [name for name in doubted if incredible(weights[name], sum(below(name)))]:
        weights[found[0]] = statistics.median_high(below(found[0]))
    return weights | {name: others for name, others in outweighing(weights).items() if name in doubted}
