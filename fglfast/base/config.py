"""Frozen, checked settings, read from TOML or JSON."""

import math
from codecs import BOM_UTF8
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fglfast.base.errors import BadInputError
from fglfast.base.files import write_atomic
from fglfast.base.untrusted import MOST_KEYS, json_object, read_bytes, toml_table

M = TypeVar("M", bound=BaseModel)
MOST_SEED = (1 << 63) - 1  # of PyTorch
Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]
MOST_BYTES = 64 << 10  # of a TOML file


class Settings(BaseModel):
    """The base of every settings class: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """Read and check a TOML file.

        Raises:
            BadInputError: the file is missing, is not TOML, or a key is unknown or out of range.
        """
        return cls.from_table(read_toml(path), path)

    @classmethod
    def from_table(cls, table: dict[str, Any], path: Path) -> Self:
        """Check a table, or a part of one, that was read from a TOML file.

        Raises:
            BadInputError: a key is unknown or out of range; the message names file and key.
        """
        if key := not_finite(table):
            raise BadInputError(f"{path}: {key}: not a finite number", "correct the key that it names")
        try:
            return cls.model_validate(table)
        except ValidationError as error:
            raise BadInputError(f"{path}: {first_problem(error)}", "correct the key that it names") from error

    @classmethod
    def from_json(cls, path: Path, hint: str = "") -> Self:
        """Read and check a record that this program wrote as JSON.

        The hint says what to do where it is not there, or no such record; of a run by default.

        Raises:
            BadInputError: the file is missing, or is no record of this version.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            found = hint or "give the folder of a finished run"
            raise BadInputError(f"{path}: cannot be read ({error.strerror})", found) from error
        except ValidationError as error:
            raise BadInputError(f"{path}: {first_problem(error)}", hint or "run it again with this version") from error

    def save(self, path: Path) -> None:
        """Write it as the JSON that `from_json` reads, whole or not at all."""
        write_atomic(path, self.model_dump_json(indent=2) + "\n")

    def to_toml(self) -> str:
        """The settings as TOML; keys that are None are left out."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def read_toml(path: Path) -> dict[str, Any]:
    """The table that a TOML file holds, unchecked.

    Raises:
        BadInputError: the file is missing, too large, or no TOML.
    """
    try:
        return toml_table(read_bytes(path, MOST_BYTES).decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: cannot be read ({error})", "check the path") from error
    except ValueError as error:
        raise BadInputError(f"{path}: not valid TOML ({error})", "correct the line that it names") from error


def checked_json(kind: type[M], text: bytes, most_keys: int = MOST_KEYS, strict: bool = False) -> M:
    """A model read from JSON that a stranger may have written; how much there is of it is checked before it is parsed.

    One object may have `most_keys`; strictly, a value of another type is refused rather than converted.

    Raises:
        ValueError: it is refused; the message fits on one line.
    """
    text = text.removeprefix(BOM_UTF8)  # editors on Windows begin with it
    try:
        json_object(text, most_keys)
    except ValueError as error:
        raise ValueError(f"not strict JSON ({error})") from error
    try:
        return kind.model_validate_json(text, strict=strict)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from error


def not_finite(table: Mapping[str, Any]) -> str:
    """The first key whose number is infinite or none, in tables within it too; empty if there is no such."""
    for key, value in table.items():
        if isinstance(value, float) and not math.isfinite(value):
            return key
        if isinstance(value, Mapping) and (inner := not_finite(value)):
            return f"{key}.{inner}"
    return ""


def first_problem(error: ValidationError) -> str:
    """The first problem pydantic found, as "key: what is wrong"."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"]) or "settings"
    return f"{where}: {problem['msg']}"
