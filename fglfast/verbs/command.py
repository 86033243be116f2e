"""What makes a function a verb: its place in the help, its errors as exit codes, its result in words or JSON."""

import os
import signal
import warnings
from collections.abc import Callable
from functools import wraps
from inspect import get_annotations, unwrap
from typing import Any, ParamSpec

import typer
from typer.core import TyperArgument, TyperCommand

from fglfast.base.console import emit_json, hushed, note, signed, stderr, stdout
from fglfast.base.errors import ExitCode, FglError
from fglfast.base.extras import missing_extra
from fglfast.base.limits import as_limit

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
CLIENTS, SERVER, RUNS = "For clients", "For the server", "Whole runs"
GENERATORS, MACHINE = "Generators", "This machine"
PANELS = (CLIENTS, SERVER, RUNS, GENERATORS, MACHINE)
P = ParamSpec("P")
KEPT = "what is finished is kept; run the same command to go on"
LOST = "nothing was kept; run the same command to begin again"


class Verb(TyperCommand):
    """A command whose arguments show their help: typer 0.20, the newest that Flower allows, loses it to click 8.5."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        annotations = get_annotations(unwrap(self.callback)) if self.callback else {}
        for parameter in self.params:
            if isinstance(parameter, TyperArgument):
                parameter.help = annotations[parameter.name].__metadata__[0].help


def verb(
    panel: str, interrupted: str = KEPT, extra: str = "server"
) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Make a function a command; its errors become one clear line and the right exit code.

    Args:
        panel: of `fglfast --help`, where it is shown.
        interrupted: what is said of its work when it is interrupted.
        extra: of the package, that it needs where PyTorch is needed: embed or server.
    """

    def register(function: Callable[P, None]) -> Callable[P, None]:
        command = app.command(name=_spelled(function), cls=Verb, rich_help_panel=panel)
        return command(exits(function, interrupted, extra))

    return register


def renamed(old: str, function: Callable[P, None]) -> None:
    """Keep the old name of a verb for one version: no help shows it, and on stderr it says what to write instead."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        note(f"fglfast {old} is now fglfast {_spelled(function)}; the next version no longer knows the old name")
        function(*args, **kwargs)

    app.command(name=old, cls=Verb, hidden=True, rich_help_panel=PANELS[-1])(run)


def _spelled(function: Callable[P, None]) -> str:
    return function.__name__.replace("_", "-")


def exits(function: Callable[P, None], interrupted: str = KEPT, extra: str = "server") -> Callable[P, None]:
    """Turn errors into one clear line and the right exit code; see `verb` for the arguments."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if hushed():
            warnings.filterwarnings("ignore")
        try:
            function(*args, **kwargs)
        except FglError as error:
            _complain(error.message, error.hint)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            _complain("interrupted", interrupted)
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except BrokenPipeError:
            raise typer.Exit(ExitCode.FAILURE) from None
        except Exception as error:
            lacking = missing_extra(error, extra, f"fglfast {_spelled(function)}")
            if os.environ.get("FGLFAST_DEBUG") and not lacking:
                raise
            bug = FglError(_line(error), "this is a bug in fglfast; set FGLFAST_DEBUG=1 to see the traceback")
            known = lacking or as_limit(error) or bug
            _complain(known.message, known.hint)
            raise typer.Exit(known.exit_code) from None

    return run


def _line(error: Exception) -> str:
    """An error's kind and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"


def tell(result: dict[str, Any], as_json: bool, line: str) -> None:
    """Print a result: one JSON object, or the line for people."""
    if as_json:
        emit_json(result)
    else:
        stdout.print(signed(line), markup=False, soft_wrap=True)


def _complain(message: str, hint: str) -> None:
    stderr.print(signed(f"error: {message}"), markup=False, style="red", soft_wrap=True)
    if hint:
        stderr.print(signed(f"  hint: {hint}"), markup=False, soft_wrap=True)
