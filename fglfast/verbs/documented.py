"""Options of the command line as a settings class documents and bounds them.

Only classes whose modules import no torch are read here: `--help` answers at once.
"""

import re
from inspect import getdoc
from typing import Any, TypeVar

import typer
from annotated_types import Ge, Le
from pydantic import ValidationError

from fglfast.base.config import Settings, first_problem, not_finite
from fglfast.base.errors import UsageError

S = TypeVar("S", bound=Settings)


def option(settings: type[Settings], name: str) -> Any:
    """An option of a field: its help is what the class's "Attributes:" say of it, its bounds are the field's."""
    bounds = settings.model_fields[name].metadata
    least: Any = next((bound.ge for bound in bounds if isinstance(bound, Ge)), None)
    most: Any = next((bound.le for bound in bounds if isinstance(bound, Le)), None)
    return typer.Option(help=attribute(settings, name), min=least, max=most)


def attribute(settings: type[Settings], name: str) -> str:
    """What the docstring of a class says of an attribute, as a sentence."""
    found = re.search(rf"^    {name}: (.*(?:\n {{8,}}.*)*)", getdoc(settings) or "", re.MULTILINE)
    text = " ".join(found[1].split()) if found else ""
    return text[:1].upper() + text[1:]


def checked(settings: type[S], **asked: Any) -> S:
    """The settings that a command line asks for.

    Raises:
        UsageError: a value is out of range; it names the option.
    """
    if key := not_finite(asked):
        raise UsageError(f"--{key.replace('_', '-')}: not a finite number", "see --help for what it may be")
    try:
        return settings(**asked)
    except ValidationError as error:
        option, _, problem = first_problem(error).partition(": ")
        raise UsageError(f"--{option.replace('_', '-')}: {problem}", "see --help for what it may be") from error
