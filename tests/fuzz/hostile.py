"""A hostile case, and what every kind of file has in common: damage to bytes, values of the wrong type."""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from hypothesis import strategies as st

Expected = Literal["accepted", "refused", "either"]
Draw = Callable[..., Any]
one = st.sampled_from

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
ODD = JSON | one(
    (2**63, 10**30, -0.0, 1e308, "\u202e", "../x", "x" * 5000, ["a"] * 50, list(range(3000)), [[[[[[]]]]]])
)
BAD_NAMES = ("", " ", "a/b", "..", ".", "a\\b", "a\x00b", "a\nb", "\x1b[2J", "a\u202eb", "\u2028", "\x9b1m")


@dataclass(frozen=True)
class Case:
    """Files, and what a reader has to do with them.

    Attributes:
        what: the mutation, for counting.
        files: content by name; None takes a file away.
        expected: whether a rule is known to be broken, known to be kept, or neither.
        links: names that are links to somewhere else.
    """

    what: str
    files: dict[str, bytes | None] = field(repr=False)
    expected: Expected = "either"
    links: dict[str, str] = field(default_factory=dict)


class Made(NamedTuple):
    """One file spoilt: how, what became of it, what a reader has to do."""

    what: str
    content: bytes
    expected: Expected


class Kind(Protocol):
    """A kind of file: `cases` makes some, `read` is the program's reader, `lie` holds what was accepted against it.

    Attributes:
        files: the sound ones, by name, which a case changes.
    """

    files: dict[str, bytes]

    def cases(self) -> st.SearchStrategy[Case]:
        """Sound sets of files, each spoilt in some way."""
        ...

    def read(self, folder: Path) -> Any:
        """What the program makes of the folder; raises FglError where it refuses."""
        ...

    def lie(self, folder: Path, accepted: Any) -> str:
        """What is wrong with an accepted case, by code that shares nothing with the reader; empty if nothing is."""
        ...


@st.composite
def damaged(draw: Draw, content: bytes, other: bytes) -> tuple[str, bytes]:
    """Damage that knows nothing of the format; its name and the bytes."""
    how = draw(one(("flip", "bytes", "cut", "grow", "splice", "zeros", "swap", "repeat")))
    start = draw(st.integers(0, len(content) - 1))
    end = start + draw(one((1, 4, 16, 200)))
    before, part, after = content[:start], content[start:end], content[end:]
    if how == "flip":
        return how, before + bytes([part[0] ^ 1 << draw(st.integers(0, 7))]) + content[start + 1 :]
    if how in ("bytes", "grow"):
        noise = draw(st.binary(min_size=1, max_size=512))
        return how, before + noise[: len(part)] + content[start + len(noise[: len(part)]) :] if how == "bytes" else (
            content + noise
        )
    if how == "splice":
        return how, before + other[draw(st.integers(0, len(other) - 1)) :]
    made = {"cut": before, "zeros": before + bytes(len(part)) + after, "swap": before + part[::-1] + after}
    return how, made.get(how, before + part + part + after)


@st.composite
def respelled(draw: Draw, value: dict[str, Any]) -> str:
    """JSON of an object, spelled in one of the ways that mean the same."""
    items = dict(draw(st.permutations(list(value.items()))))
    return json.dumps(items, indent=draw(one((None, 1, " "))), ensure_ascii=draw(st.booleans()))


@st.composite
def edited(draw: Draw, value: dict[str, Any]) -> dict[str, Any]:
    """An object with one value, somewhere in it, replaced, taken away, or joined by another."""
    value = copy.deepcopy(value)
    parent, key = draw(one(list(_places(value))))
    how = draw(one(("odd", "odd", "odd", "delete", "add", "copy")))
    if how == "odd":
        parent[key] = draw(ODD)
    elif how == "delete":
        del parent[key]
    else:
        new = draw(ODD) if how == "add" else parent[key]
        parent.insert(key, new) if isinstance(parent, list) else parent.update({f"{key}2": new})
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every value within a JSON value: what holds it, and under which key or number."""
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def plain_json(text: bytes | str) -> tuple[Any, bool]:
    """What a JSON text says, and whether some key is there twice."""
    twice = False

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal twice
        twice |= len({key for key, _ in found}) < len(found)
        return dict(found)

    return json.loads(text, object_pairs_hook=pairs), twice


def same(left: Any, right: Any) -> bool:
    """Equal, and of equal types: 1 is not True, nor 1.0 where a whole number stands; lists and tuples are alike."""
    if isinstance(left, bool) or isinstance(right, bool) or left is None or right is None:
        return left is right
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, float) and isinstance(right, int):
        return left == float(right)  # 2 for 2.0
    return type(left) is type(right) and left == right
