"""How lists, differences, sizes and times are said, in messages as on pages. Knows nothing of what is said."""

import json
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any

NAMED = 5
LONGEST = 70  # letters of a value
DIGEST = 64  # hexadecimal digits of a sha256


def some(names: Collection[object], most: int = NAMED, between: str = ", ") -> str:
    """The first few of a list, and how many more there are: "a, b and 55 more"."""
    words = between.join(str(name) for name in islice(names, most))
    return f"{words} and {len(names) - most:,} more" if len(names) > most else words


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What two sets of facts do not share, in words; empty if they are equal.

    Args:
        there: as JSON; facts within facts are named by both keys, with a dot.
        here: likewise. Of two hashes, which tell nobody anything, it is said that they are others.
    """
    one, other = dict(_flat(there)), dict(_flat(here))
    words = [_difference(key, one, other) for key in one | other]
    return some([word for word in words if word], between="; ")


def size(count: float) -> str:
    """Bytes, in units of a thousand."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def duration(seconds: float) -> str:
    """Time in the two largest units that tell something: "3 h 20 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return "{} min {} s".format(*divmod(round(seconds), 60))
    return "{:,} h {} min".format(*divmod(round(seconds / 60), 60))


def _flat(facts: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, value


def _difference(key: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    name = key.replace("_", " ")
    if key not in there or key not in here:
        return f"{name} {'there' if key in there else 'here'} only"
    if there[key] == here[key]:
        return ""
    if all(isinstance(facts[key], str) and len(facts[key]) == DIGEST for facts in (there, here)):
        return f"another {name}"
    return f"{name} {_short(there[key])} there, {_short(here[key])} here"


def _short(value: Any) -> str:
    text = "none" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
