"""A list of classes in a text file: a name a line, in the order of the labels."""

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fglfast.base.config import first_problem
from fglfast.base.errors import BadInputError
from fglfast.base.names import MAX_CLASS_NAME, MAX_CLASSES, ClassNames
from fglfast.base.untrusted import read_bytes
from fglfast.images.columns import plain_names

MOST_BYTES = 4 * MAX_CLASSES * (MAX_CLASS_NAME + 1)  # of UTF-8
HINT = "write one name a line, each once"


def read_class_list(path: Path) -> tuple[str, ...]:
    """The names of a list of classes, as `plain_names` writes them; empty lines do not count.

    Raises:
        BadInputError: it cannot be read, holds no name or too many, a name twice, or one that cannot be shown.
    """
    try:
        text = read_bytes(path, MOST_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: cannot be read as UTF-8 text ({error})", "check the path") from error
    names = [name for line in text.split("\n") if (name := line.strip())]
    try:
        return TypeAdapter(ClassNames).validate_python(list(map(plain_names([names], path), names)))
    except ValidationError as error:
        raise BadInputError(f"{path}: no list of classes: {first_problem(error)}", HINT) from error
