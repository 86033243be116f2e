"""The command line: `fglfast --help`. Its verbs register themselves."""

from typing import Annotated

import typer

from fglfast import __version__
from fglfast.base.console import LEVEL, Level, set_level, stdout
from fglfast.verbs import (  # noqa: F401 (they register their verbs)
    datasets,
    embed,
    for_clients,
    for_servers,
    operators,
    payloads,
    runs,
    tools,
    trainers,
    training,
)
from fglfast.verbs.command import PANELS
from fglfast.verbs.command import app as app

app.registered_commands.sort(key=lambda command: PANELS.index(command.rich_help_panel))


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    log_level: Annotated[
        Level,
        typer.Option(
            help="On stderr: error for errors alone, info for notes and progress, debug for libraries too.",
            envvar=LEVEL,
        ),
    ] = "info",
) -> None:
    """Federated Generative Learning: clients send prompt embeddings once, and a server draws images and trains."""
    set_level(log_level)
    if version:
        stdout.print(__version__)
        raise typer.Exit()
