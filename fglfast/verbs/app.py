"""The command line: `fglfast --help`. Its verbs register themselves."""

from typing import Annotated

import typer

from fglfast import __version__
from fglfast.base.console import stdout
from fglfast.verbs import audits, clients, runs, stages, tools, trainers, upkeep
from fglfast.verbs.options import app

__all__ = ["app", "audits", "clients", "runs", "stages", "tools", "trainers", "upkeep"]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Federated Generative Learning: clients send prompt embeddings once, the server draws a data set and trains."""
    if version:
        stdout.print(__version__)
        raise typer.Exit()
