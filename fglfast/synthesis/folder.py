"""Whose the folder of a data set is: its description and card, written once."""

from pathlib import Path
from typing import Any

from fglfast.base.errors import UsageError
from fglfast.base.files import exclusive, write_atomic
from fglfast.base.wording import differences
from fglfast.payload.merge import by_client
from fglfast.shards.description import FACTS, LOCKS, refuse_links, write_description
from fglfast.synthesis.card import card
from fglfast.synthesis.drawn import Drawn

FOLLOWS = {"format_version", "plan", "images", "shards", "clients", "payloads"}  # from the other facts


def begin(out: Path, drawn: Drawn) -> None:
    """Write a data set's card and description, or check that those there are of the same plan; ranks take turns.

    Raises:
        UsageError: the folder belongs to another plan; what differs is said.
        BadInputError: a part of the folder is a link to somewhere else.
    """
    refuse_links(out)
    (out / LOCKS).mkdir(parents=True, exist_ok=True)
    with exclusive(out / LOCKS / "claim"):
        refuse_another(out, drawn)
        if not (out / FACTS).exists():
            write_atomic(out / "README.md", card(drawn))
            write_description(out, drawn)


def refuse_another(out: Path, drawn: Drawn) -> None:
    """As `begin`, writing nothing."""
    if not (out / FACTS).exists():
        if any(out.glob("*.tar")):
            raise UsageError(f"{out} holds tar files but no {FACTS}", "choose another --out")
        return
    there = Drawn.of(out)
    if there.plan != drawn.plan:
        raise UsageError(
            f"{out} holds another data set: {differences(_chosen(there), _chosen(drawn)) or 'its plan differs'}",
            "choose another --out, or delete the folder to start anew",
        )


def _chosen(drawn: Drawn) -> dict[str, Any]:
    """Of a data set's facts those that a person chose, the payloads by name."""
    facts = drawn.model_dump(mode="json", exclude=FOLLOWS)
    return facts | by_client(drawn.clients, drawn.payloads)
