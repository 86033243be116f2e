"""Which client caused which images of a data set, by what `dataset.json` says of its rows. Opens no shard."""

from pathlib import Path

from fglfast.base.errors import BadInputError
from fglfast.synthesis.accounts import Account, ClassAccount, reckon, shares_of
from fglfast.synthesis.drawn import Drawn


def shares(folder: Path) -> dict[str, dict[str, ClassAccount]]:
    """By client and class name, for each client of a data set.

    Raises:
        BadInputError: the folder is no data set, or an earlier version's, which does not tell.
    """
    drawn = Drawn.of(folder)
    if not drawn.by_content:
        raise BadInputError(
            f"{folder}: its format {drawn.format_version} does not say which rows clients sent", "draw it anew"
        )
    return shares_by_name(drawn)


def shares_by_name(drawn: Drawn) -> dict[str, dict[str, ClassAccount]]:
    """As `shares`, of what was read."""
    return {
        client: {drawn.class_names[label]: share for label, share in by_class.items()}
        for client, by_class in shares_of(drawn.rows, drawn.clients).items()
    }


def accounts_in(drawn: Drawn) -> tuple[Account, ...]:
    """Of all clients, in order; of a data set by a version that did not write them, what its rows tell."""
    return drawn.accounts or reckon(drawn.rows, drawn.clients)
