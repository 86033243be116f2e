"""One hostile case, and what every kind of file has in common: damage to bytes, values of the wrong type."""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Expected = Literal["accepted", "refused", "either"]


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
    files: dict[str, bytes | None]
    expected: Expected = "either"
    links: dict[str, str] = field(default_factory=dict)


class Kind(Protocol):
    """A kind of file: `case` makes one, `read` is the program's reader, `lie` holds what was accepted against it.

    Attributes:
        files: the sound ones, by name, which a case changes.
    """

    files: dict[str, bytes]

    def case(self, draw: random.Random) -> Case:
        """A sound set of files, spoilt in some way."""
        ...

    def read(self, folder: Path) -> Any:
        """What the program makes of the folder; raises FglError where it refuses."""
        ...

    def lie(self, case: Case, folder: Path, accepted: Any) -> str:
        """What is wrong with an accepted case, by code that shares nothing with the reader; empty if nothing is."""
        ...


NAMES = ("ann", "é", "犬", "a b", "x" * 128, "Ωmega", "O'Hara", "a.b", "-", "naïve", "ﷺ", "🐈")
BAD_NAMES = ("", " ", "a/b", "..", ".", "a\\b", "a\x00b", "a\nb", "\x1b[2J", "a\u202eb", "x" * 129, "\u2028", "\x9b1m")
ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2**31, 2**63, 2**64, 10**30, 0.5, -0.0, 1e308, "", "x", "0", "\u202e", "../x", "/"),
    *([], {}, [[]], {"": {}}, [None], ["a"] * 50, "x" * 5000, list(range(3000)), [[[[[[]]]]]]),
)


def damaged(draw: random.Random, content: bytes, other: bytes) -> tuple[str, bytes]:
    """Damage that knows nothing of the format."""
    data = bytearray(content)
    how = draw.choice(("flip", "bytes", "cut", "grow", "splice", "zeros", "swap", "repeat"))
    start = draw.randrange(len(data))
    end = min(len(data), start + draw.choice((1, 4, 16, 200)))
    if how == "flip":
        for _ in range(draw.choice((1, 1, 2, 8))):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif how == "bytes":
        data[start:end] = draw.randbytes(end - start)
    elif how == "cut":
        del data[start:]
    elif how == "grow":
        data += draw.randbytes(draw.choice((1, 8, 512)))
    elif how == "splice":
        data[start:] = other[draw.randrange(len(other)) :]
    elif how == "zeros":
        data[start:end] = bytes(end - start)
    elif how == "swap":
        data[start:end] = data[start:end][::-1]
    else:
        data[start:start] = data[start:end]
    return how, bytes(data)


def respelled(draw: random.Random, value: dict[str, Any]) -> str:
    """JSON of an object, spelled in one of the ways that mean the same."""
    items = list(value.items())
    if draw.random() < 0.3:
        draw.shuffle(items)
    spaces = draw.choice((None, None, 1, " "))
    return json.dumps(dict(items), indent=spaces, ensure_ascii=draw.random() < 0.5)


def edited(draw: random.Random, value: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """An object with one value, somewhere in it, replaced, taken away, or joined by another."""
    value = json.loads(json.dumps(value))
    parent: Any = value
    while True:
        keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        key = draw.choice(keys)
        deeper = parent[key]
        if not isinstance(deeper, dict | list) or not deeper or draw.random() < 0.3:
            break
        parent = deeper
    how = draw.choice(("odd", "odd", "odd", "delete", "add", "copy"))
    if how == "odd":
        parent[key] = draw.choice(ODD)
    elif how == "delete":
        del parent[key]
    elif isinstance(parent, dict):
        parent["more" if how == "add" else f"{key}2"] = draw.choice(ODD) if how == "add" else parent[key]
    else:
        parent.insert(draw.randrange(len(parent) + 1), draw.choice(ODD) if how == "add" else parent[key])
    return how, value


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
