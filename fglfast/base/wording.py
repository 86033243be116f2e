"""How lists, differences, sizes and times are put into words, in messages and on pages."""

import json
import re
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


def many(count: int, noun: str) -> str:
    """How many of something: "1 image", "2,000 images", "3 classes"."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """How two sets of facts, as JSON, differ, in words; empty if they are equal.

    A fact within a fact is named by both keys, joined by a dot. Hashes, which tell nobody anything, are not shown.
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


def beside(part: float, whole: float) -> str:
    """How large one is beside another: "1/12 of", or "3.5 times" where it is larger."""
    return f"1/{whole / max(part, 1):,.0f} of" if part <= whole else f"{part / whole:,.1f} times"


def duration(seconds: float) -> str:
    """Seconds in words, in at most two units: "3 h 20 min"."""
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


def plain(text: str) -> str:
    """Text that Markdown shows as it is, also as an entry of a list."""
    marked = "".join(f"\\{letter}" if letter in "\\`*_[]<>#|&~$" else letter for letter in text)
    return re.sub(r"^(\d*)([-+.)])", r"\1\\\2", marked)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or else its kind."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
