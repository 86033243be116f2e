"""Files, JSON and TOML: how large first, then how much of what, then the content. Knows no key and no value."""

import json
import math
import stat
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

from fglfast.base.errors import BadInputError, FglError
from fglfast.base.limits import as_limit

# Commas and opening brackets: each stands before a value. Three for each of the 100,000 classes that there may be.
MOST_VALUES = 300_000
MOST_KEYS = 1000
MOST_DOTS = 2_000_000
HINT = "check where it comes from, and that it is whole"


def read_bytes(path: Path, most: int) -> bytes:
    """Read a regular file: a named pipe would block, a device never end.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        BadInputError: it is no regular file, or larger.
        OSError: it cannot be read.
    """
    status = path.stat()  # before opening, which would wait for the other end of a pipe
    if not stat.S_ISREG(status.st_mode):
        raise BadInputError(f"{path}: not a regular file", "give a file")
    with path.open("rb") as stream:
        content = stream.read(most + 1) if status.st_size <= most else b""
    if max(status.st_size, len(content)) > most:
        raise BadInputError(f"{path}: larger than the {most} bytes that are read", HINT)
    return content


def json_object(text: bytes | str, most_keys: int = MOST_KEYS, strict: bool = True) -> dict[str, Any]:
    """Parse a JSON object: of bounded content, no key there twice.

    Eight megabytes of empty lists would otherwise take gigabytes, and a checker a message for each of them.

    Args:
        text: UTF-8 if it is bytes.
        most_keys: of any one object.
        strict: whether infinities and NaN, which JSON has not, are refused.

    Raises:
        ValueError: it is none; the message fits into a line.
    """

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(pairs) > most_keys:
            raise ValueError(f"an object of more than {most_keys} keys")
        return distinct_keys(pairs)

    text = text.decode() if isinstance(text, bytes) else text
    if sum(map(text.count, ",[{")) > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES} values")
    try:
        hooks: dict[str, Any] = {"parse_constant": _no_number, "parse_float": _finite} if strict else {}
        value = json.loads(text, object_pairs_hook=distinct, **hooks)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 (of what is wrong with a text, all is one kind)
    return value


def distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of its keys and values.

    Raises:
        ValueError: a key is there twice.
    """
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def read_object(path: Path, most: int, hint: str, most_keys: int = MOST_KEYS) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Args:
        path: the file.
        most: bytes that it may have.
        hint: how to mend what is wrong with it.
        most_keys: of any one object.

    Raises:
        BadInputError: it cannot be read, or is none.
    """
    try:
        return json_object(read_bytes(path, most), most_keys)
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror})", hint) from error
    except ValueError as error:
        raise BadInputError(f"{path}: not strict JSON ({error})", hint) from error


def toml_table(text: str) -> dict[str, Any]:
    """Parse TOML.

    A key of many parts takes `tomllib` the square of their number: a minute for one of 60 kilobytes.

    Raises:
        ValueError: it is none, nested too deeply, or the squares of the dots of its lines come to `MOST_DOTS`.
    """
    if sum(line.count(".") ** 2 for line in text.split("\n")) > MOST_DOTS:
        raise ValueError("too many dots in a line")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


@contextmanager
def loading(what: str | PathLike[str], hint: str = HINT) -> Iterator[None]:
    """Say of whatever a library raises, reading a stranger's file, that the file is at fault.

    Raises:
        BadInputError: instead of all but errors of ours and those that speak of the machine.
    """
    try:
        yield
    except FglError:
        raise
    except Exception as error:  # libraries raise what each of their readers raises
        if as_limit(error):
            raise
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise BadInputError(f"{what}: cannot be used ({reason})", hint) from error


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"{digits[:20]} is beyond all numbers")
    return number


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
