"""Files, JSON and TOML that a stranger may have written: their size is checked first, then how much is in them."""

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
from fglfast.base.wording import first_line

# Counted as commas and opening brackets, which stand before values: three for each of at most 100,000 classes.
MOST_VALUES = 300_000
MOST_KEYS = 1000
MOST_DOTS = 2_000_000
HINT = "check where it comes from, and that it is whole"


def read_bytes(path: Path, most: int) -> bytes:
    """Read a regular file of so many bytes at most; a named pipe would block, and a device would never end.

    Raises:
        BadInputError: it is not a regular file, or is larger.
        OSError: it cannot be read.
    """
    status = path.stat()  # before opening: that would wait for the other end of a pipe
    if not stat.S_ISREG(status.st_mode):
        raise BadInputError(f"{path}: not a regular file", "give a file")
    with path.open("rb") as stream:
        content = stream.read(most + 1) if status.st_size <= most else b""
    if max(status.st_size, len(content)) > most:
        raise BadInputError(f"{path}: larger than the {most} bytes that are read", HINT)
    return content


def json_object(
    text: bytes | str, most_keys: int = MOST_KEYS, strict: bool = True, most_values: int = MOST_VALUES
) -> dict[str, Any]:
    """Parse a JSON object whose content is bounded and whose keys are distinct.

    Otherwise eight megabytes of empty lists would take gigabytes, as would a checker's message for each of them.

    Args:
        text: bytes are read as UTF-8.
        most_keys: keys that one object may have.
        strict: whether infinities and NaN, which JSON lacks, are refused.
        most_values: values that there may be, counted as commas and opening brackets.

    Raises:
        ValueError: it is no such object; the message fits on one line.
    """

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(pairs) > most_keys:
            raise ValueError(f"an object of more than {most_keys} keys")
        return distinct_keys(pairs)

    text = text.decode() if isinstance(text, bytes) else text
    if sum(map(text.count, ",[{")) > most_values:
        raise ValueError(f"more than {most_values} values")
    try:
        hooks: dict[str, Any] = {"parse_constant": _no_number, "parse_float": _finite} if strict else {}
        value = json.loads(text, object_pairs_hook=distinct, **hooks)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 (whatever is wrong with a text is a ValueError)
    return value


def distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object of its keys and values.

    Raises:
        ValueError: a key is there twice.
    """
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def read_object(path: Path, most: int, hint: str, most_keys: int = MOST_KEYS) -> dict[str, Any]:
    """Read a file of so many bytes at most that holds a JSON object; see `json_object`.

    Raises:
        BadInputError: it cannot be read, or is no such object.
    """
    try:
        return json_object(read_bytes(path, most), most_keys)
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror})", hint) from error
    except ValueError as error:
        raise BadInputError(f"{path}: not strict JSON ({error})", hint) from error


def toml_table(text: str) -> dict[str, Any]:
    """Parse TOML.

    The time that `tomllib` takes for a key grows with the square of its parts: a minute for one of 60 kilobytes.

    Raises:
        ValueError: it is not TOML, is nested too deeply, or has too many dots in its lines (`MOST_DOTS`).
    """
    if sum(line.count(".") ** 2 for line in text.split("\n")) > MOST_DOTS:
        raise ValueError("too many dots in a line")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


@contextmanager
def loading(what: str | PathLike[str], hint: str = HINT) -> Iterator[None]:
    """Turn whatever a library raises while it reads a stranger's file into an error that blames the file.

    Raises:
        BadInputError: in place of the library's error; ours, and those that report the machine's limits, pass.
    """
    try:
        yield
    except FglError:
        raise
    except Exception as error:  # each of a library's readers raises its own kind
        if as_limit(error):
            raise
        reason = first_line(error)
        raise BadInputError(f"{what}: cannot be used ({reason})", hint) from error


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"{digits[:20]} is too large a number")
    return number


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
