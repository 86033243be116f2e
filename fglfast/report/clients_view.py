"""What pages show of a data set's clients: claimed beside drawn, and how their rows look beside the others'."""

from collections.abc import Mapping, Sequence
from typing import Any

from fglfast.report.render import colours
from fglfast.synthesis.accounts import Account, disagreeing, displaced, remarks, together
from fglfast.synthesis.drawn import Drawn
from fglfast.synthesis.provenance import accounts_in, shares_by_name

MOST_CLIENTS = 40  # that are shown one by one
MOST_PARTS = 20  # of a bar; the rest of its classes are one
MOST_NAMES = 20  # of classes, in the legend

Parts = list[tuple[str, float, str]]


def clients_view(drawn: Drawn) -> dict[str, Any]:
    """What the template of clients takes: who stands out first, then by what they claim."""
    accounts, shares = accounts_in(drawn), shares_by_name(drawn)
    odd = {account.client for account in (*displaced(accounts), *disagreeing(accounts))}
    order = sorted(accounts, key=lambda one: (one.client not in odd and not one.odd, -one.claimed, one.client))
    parts = {client: together(by_class).part for client, by_class in shares.items()}
    claimed, images = sum(account.claimed for account in accounts), sum(parts.values())
    widest = max([account.claimed / claimed for account in accounts] + [part / images for part in parts.values()])
    hues = dict(zip(drawn.class_names, colours(len(drawn.class_names)), strict=True))

    def shown(account: Account) -> dict[str, Any]:
        own = shares[account.client]
        return {
            "account": account,
            "claimed": _bar({name: share.claimed for name, share in own.items()}, hues),
            "drawn": _bar({name: share.part for name, share in own.items()}, hues),
            "claimed_width": 100 * account.claimed / claimed / widest,
            "drawn_width": 100 * parts[account.client] / images / widest,
            "share": parts[account.client] / images,
        }

    return {
        "rows": [shown(account) for account in order[:MOST_CLIENTS]],
        "count": len(accounts),
        "widest": widest,
        "remarks": remarks(accounts, drawn.class_names),
        "class_names": drawn.class_names,
        "colours": list(hues.values()),
        "most": MOST_NAMES,
    }


def _bar(values: Mapping[str, float], hues: Mapping[str, str]) -> Parts:
    """The parts of a bar by class, in the order of the classes, the smallest of many as one grey part."""
    held = {name: value for name, value in values.items() if value}
    largest: Sequence[str] = sorted(held, key=lambda name: -held[name])[:MOST_PARTS]
    parts = [(name, held[name], hues[name]) for name in held if name in set(largest)]
    rest = sum(held.values()) - sum(value for _, value, _ in parts)
    more = len(held) - len(parts)
    return [*parts, (f"{more} more classes", rest, "var(--soft)")] if more else parts
