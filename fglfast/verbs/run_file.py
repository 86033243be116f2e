"""Run files (TOML): a verb's options, and settings that have none. What the command line says wins over the file.

The file's values are click's `default_map`: an option takes what it is given, else its environment variable, else the
file, else its default.
"""

from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tomli_w
import typer

from fglfast.base.config import Settings, not_finite, read_toml
from fglfast.base.console import stdout
from fglfast.base.errors import BadInputError, UsageError
from fglfast.base.wording import some
from fglfast.verbs.command import exits

# This call's run file, and what it says beside options. Not in typer's context: which click that is of, typer decides.
_beside_options: ContextVar[tuple[Path, dict[str, Any]]] = ContextVar("beside options", default=(Path(), {}))
S = TypeVar("S", bound=Settings)
OF_A_CALL = frozenset({"config", "print_config", "as_json", "dry_run"})  # options that say nothing of the work
# What TOML holds for an option of click's types, by their names; for all others, such as paths, text alone.
KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "boolean": ("true or false", (bool,)),
    "integer": ("a whole number", (int,)),
    "float": ("a number", (int, float)),
    "text": ("text", (str, int, float)),  # a batch size is a number too, if it is not "auto"
}
MEND = "correct the key that it names"

PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print the settings that result, as a run file, and do nothing else.")
]


def run_file(settings: type[Settings] | None = None, more: tuple[str, ...] = ()) -> Any:
    """The option `--config` of a verb, whose file may have any of its other options, by their names with underscores.

    Args:
        settings: whose fields the file may have too; its values are checked by them.
        more: names of further settings, which `without_option` returns and the verb checks.
    """

    def read(context: typer.Context, file: Path | None) -> Path | None:
        _beside_options.set((Path(), {}))
        if file and not context.resilient_parsing:
            exits(_take)(context, file, settings, more)
        return file

    text = "Run file (.toml): options of this command and settings that have none; what is given here wins."
    return typer.Option("--config", callback=read, is_eager=True, help=text, dir_okay=False)


def _take(context: typer.Context, file: Path, settings: type[Settings] | None, more: tuple[str, ...]) -> None:
    options = {parameter.name: parameter for parameter in context.command.params if parameter.name not in OF_A_CALL}
    fields = set(settings.model_fields) if settings else set()
    table = read_toml(file)
    if unknown := sorted(table.keys() - options.keys() - fields - set(more)):
        others = some(sorted(fields.union(more) - options.keys()), most=20)
        hint = f"known are the options of {context.info_name}, with underscores, and {others}"
        raise BadInputError(f"{file}: unknown: {some(unknown)}", hint)
    for key, value in table.items():
        if key in options:
            _check(options[key], value, context, f"{file}: {key}")
    if settings:
        settings.from_table({key: value for key, value in table.items() if key in fields}, file)
    context.default_map = {key: value for key, value in table.items() if key in options}
    _beside_options.set((file, {key: value for key, value in table.items() if key not in options}))


def _check(option: Any, value: Any, context: typer.Context, where: str) -> None:
    """Refuse a value that is of another type than its option, which click would convert, or out of its range."""
    words, kinds = KINDS.get(option.type.name.removesuffix(" range"), ("text, in quotes", (str,)))
    if option.multiple:
        words, kinds = "a list of texts", (str,)
    values = value if option.multiple else [value]
    if not isinstance(values, list) or any(type(each) not in kinds for each in values):
        raise BadInputError(f"{where}: must be {words}", MEND)
    if not_finite({where: value}):
        raise BadInputError(f"{where}: not a finite number", MEND)
    try:
        option.type_cast_value(context, value)
    except typer.BadParameter as error:
        raise BadInputError(f"{where}: {error.message}", MEND) from error


def without_option() -> dict[str, Any]:
    """What the run file of this call says beside options, as it was read."""
    return dict(_beside_options.get()[1])


def changed_by_file(settings: S, name: str) -> S:
    """Settings with what the table of that name in this call's run file says.

    Raises:
        BadInputError: it is no table, or a key of it is unknown or out of range.
    """
    file, found = _beside_options.get()
    table = found.get(name, {})
    if not isinstance(table, dict):
        raise BadInputError(f"{file}: {name} is not a table", f"write it below a line [{name}]")
    return settings.from_table(settings.model_dump() | table, file)


def check_printed(print_config: bool, as_json: bool) -> None:
    """Refuse a run file that shall be JSON.

    Raises:
        UsageError: both are asked for.
    """
    if print_config and as_json:
        raise UsageError("--print-config prints a run file (TOML), and no JSON", "leave out --json")


def print_settings(settings: Settings, **options: Any) -> None:
    """Print what `--config` reads back: settings, and options that are none of them; what is None is left out."""
    given = {name: value for name, value in options.items() if value is not None}
    stdout.out(tomli_w.dumps(given | settings.model_dump(mode="json", exclude_none=True)), end="", highlight=False)
