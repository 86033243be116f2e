"""Files that list images and say something of each: JSON lines, JSON, or columns of text."""

import csv
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from fglfast.base.errors import BadInputError
from fglfast.base.untrusted import distinct_keys
from fglfast.base.wording import some

MORE = "more columns than names"
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}

Entry = tuple[str, Mapping[str, Any]]  # where it stands, for people; what is there by column or key


@dataclass(frozen=True)
class Form:
    """What is read of each image.

    Attributes:
        names: columns or keys that name the image; one of them is there.
        facts: columns or keys of what is said of it; likewise.
        hint: how to write such a file.
        others: columns or keys that are read where they are there.
    """

    names: tuple[str, ...]
    facts: tuple[str, ...]
    hint: str
    others: tuple[str, ...] = ()

    def check_once(self, columns: Sequence[str], where: str) -> None:
        """Refuse a column or key that is read and stands there twice.

        Raises:
            BadInputError: one does.
        """
        for name in (*self.names, *self.facts, *self.others):
            if columns.count(name) > 1:
                raise BadInputError(f"{where}: column {name} is there twice", "keep one, or rename the other")

    def fits(self, columns: Iterable[str]) -> bool:
        """Whether what is needed is among some columns."""
        there = set(columns)
        return self.names_images(there) and self.says_facts(there)

    def names_images(self, columns: Iterable[str]) -> bool:
        """Whether a name of images is among some columns."""
        return not set(self.names).isdisjoint(columns)

    def says_facts(self, columns: Iterable[str]) -> bool:
        """Whether a fact is among some columns."""
        return not set(self.facts).isdisjoint(columns)


def read_entries(path: Path, form: Form) -> Iterator[Entry]:
    """The entries of a file, by columns or keys in small letters; what begins as JSON is JSON, whatever it is called.

    It holds JSON lines, a JSON list of the same objects, a JSON object of facts by file name, or lines of columns that
    commas, semicolons or tabs separate, under a line of their names.

    Raises:
        BadInputError: it cannot be read, or no column is named so.
    """
    text = _text(path)
    if _is_json(text, path):
        return _json_entries(text, path, form)
    return _table_entries(text, path, form)


def declares(path: Path, form: Form) -> bool:
    """Whether a file says facts of images, or is meant to; not where it plainly names images and says other things.

    It may still be one that `read_entries` refuses: its first line says a fact, or nothing, but is no line of columns.

    Raises:
        BadInputError: it cannot be read.
    """
    text = _text(path)
    if _is_json(text, path):
        return any(form.says_facts(entry) for _, entry in _json_entries(text, path, form))
    delimiter, columns = _delimiter(text, form)
    if delimiter is None and any(map(form.names_images, columns.values())):
        return False
    words = re.findall(r"\w+", text.lstrip().partition("\n")[0].lower())
    return delimiter is not None or not words or form.says_facts(words)


def plain_name(name: str) -> str:
    """A file's name, or path inside the data set, in one way of writing it."""
    return unicodedata.normalize("NFC", name).replace("\\", "/").removeprefix("./")


def is_whole(value: Any) -> bool:
    """Whether it is a float that stands for an integer, as where a column of integers has gaps."""
    return isinstance(value, float) and value.is_integer()


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")  # spreadsheets begin with a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(
            f"{path}: cannot be read as UTF-8 text ({error})", "check the path and its encoding"
        ) from error


def _is_json(text: str, path: Path) -> bool:
    return text.lstrip()[:1] in ("{", "[") or path.suffix.lower() in (".json", ".jsonl")


def _table_entries(text: str, path: Path, form: Form) -> Iterator[Entry]:
    """Lines of columns, the first of their names.

    Read as a stream, quoted words may hold line ends; `str.splitlines` would also end a line at U+2028 and others.
    """
    delimiter, found = _delimiter(text, form)
    if delimiter is None:
        raise _lacking(path, found, form)
    form.check_once(found[delimiter], f"{path}: line 1")
    reader = csv.DictReader(
        StringIO(text, newline=""), delimiter=delimiter, restkey=MORE, skipinitialspace=True, strict=True
    )
    reader.fieldnames = found[delimiter]  # the first line, in small letters
    next(reader.reader)
    try:
        for line in reader:
            where = f"line {reader.line_num}"
            if any(line.pop(MORE, ())):
                problem = f"more columns than the {len(line)} that the first line names"
                hint = f"put quotes around a {form.facts[0]} that has {DELIMITERS[delimiter]}"
                raise BadInputError(f"{path}: {where}: {problem}", hint)
            if any(line.values()):  # spreadsheets end with empty lines
                yield where, line
    except csv.Error as error:
        raise BadInputError(f"{path}: line {reader.line_num}: not CSV ({error})", form.hint) from error


def _delimiter(text: str, form: Form) -> tuple[str | None, dict[str, list[str]]]:
    """What separates the columns, if the first line then names those that are needed; its columns by each."""
    columns: dict[str, list[str]] = {}
    for delimiter in DELIMITERS:
        try:
            first = next(csv.reader(StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True))
            columns[delimiter] = _lowered(first)
        except (csv.Error, StopIteration):
            columns[delimiter] = []
        if form.fits(columns[delimiter]):
            return delimiter, columns
    return None, columns


def _lowered(names: Iterable[str]) -> list[str]:
    """The names of columns or keys in small letters, as they are read."""
    return [name.strip().lower() for name in names]


def _lacking(path: Path, columns: Mapping[str, list[str]], form: Form) -> BadInputError:
    likely = max(columns, key=lambda delimiter: len(columns[delimiter]))
    found = columns[likely]
    missing = " and ".join(wanted[0] for wanted in (form.names, form.facts) if not set(wanted) & set(found))
    parted = f", separated by {DELIMITERS[likely]}" if len(found) > 1 else ""
    named = some([repr(name[:80]) for name in found]) or "none"
    hint = f"begin with a line such as {form.names[0]},{form.facts[0]}"
    return BadInputError(f"{path}: line 1: no column {missing}; it names {named}{parted}", hint)


def _json_entries(text: str, path: Path, form: Form) -> Iterator[Entry]:
    """JSON lines, or one JSON value for all: a list of entries, or facts by file name."""
    try:
        whole = json.loads(text, object_pairs_hook=distinct_keys)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":  # after the first line, which is whole then
            raise BadInputError(f"{path}: line {error.lineno}: not a JSON object ({error.msg})", form.hint) from error
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: not JSON that can be read ({error})", form.hint) from error
    else:
        yield from _of_whole(whole, path, form)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", _entry(_parsed(line), f"{path}: line {number}", form)


def _of_whole(value: Any, path: Path, form: Form) -> Iterator[Entry]:
    if isinstance(value, dict) and not form.names_images(_lowered(value)):
        if value and all(
            isinstance(fact, list) and all(isinstance(one, str) for one in fact) for fact in value.values()
        ):
            raise BadInputError(f"{path}: its {form.facts[0]}s are lists", f"write one {form.facts[0]} an image")
        if not all(isinstance(fact, str | int) or is_whole(fact) for fact in value.values()):
            what = f"one JSON object of {some([repr(key) for key in value])}, not of {form.facts[0]}s by file name"
            raise BadInputError(f"{path}: {what}", form.hint)
        value = [{form.names[0]: name, form.facts[0]: fact} for name, fact in value.items()]
    what, entries = ("entry", value) if isinstance(value, list) else ("line", [value])
    for number, entry in enumerate(entries, start=1):
        yield f"{what} {number}", _entry(entry, f"{path}: {what} {number}", form)


def _parsed(line: str) -> Any:
    """What a line of JSON says; None if it is none."""
    try:
        return json.loads(line, object_pairs_hook=distinct_keys)
    except (ValueError, RecursionError):
        return None


def _entry(value: Any, where: str, form: Form) -> dict[str, Any]:
    """An object of JSON by its keys in small letters; one that is written so stands before one in capitals."""
    if not isinstance(value, dict):
        raise BadInputError(f"{where}: not a JSON object", form.hint)
    kept = {key: one for key, one in value.items() if key == (small := _lowered([key])[0]) or small not in value}
    keys = _lowered(kept)
    form.check_once(keys, where)
    return dict(zip(keys, kept.values(), strict=True))
