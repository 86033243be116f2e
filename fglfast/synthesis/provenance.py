"""Which client caused which images of a data set, by what `dataset.json` says of its rows. Opens no shard."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fglfast.base.errors import BadInputError
from fglfast.synthesis.drawn import Drawn


@dataclass(frozen=True)
class Share:
    """What a client has to do with the images of a class.

    Attributes:
        claimed: private images that it says it has.
        images: drawn of its rows, others may have sent the same.
        alone: of those, drawn of rows that nobody else sent: they go with the client.
    """

    claimed: int = 0
    images: int = 0
    alone: int = 0

    def __add__(self, other: "Share") -> "Share":
        return Share(self.claimed + other.claimed, self.images + other.images, self.alone + other.alone)


def shares(folder: Path) -> dict[str, dict[str, Share]]:
    """By client and class name, for each client of a data set.

    Raises:
        BadInputError: the folder is no data set, or an earlier version's, which does not tell.
    """
    drawn = Drawn.of(folder)
    if not drawn.by_content:
        raise BadInputError(
            f"{folder}: its format {drawn.format_version} does not say which rows clients sent", "draw it anew"
        )
    found: dict[str, dict[str, Share]] = {client: {} for client in drawn.clients}
    for row in drawn.rows:
        name = drawn.class_names[row.label]
        for client, count in row.claims.items():
            share = Share(count, row.images, row.images if len(row.claims) == 1 else 0)
            found[client][name] = found[client].get(name, Share()) + share
    return found


def together(by_class: Mapping[str, Share]) -> Share:
    """Of all classes."""
    return sum(by_class.values(), Share())
