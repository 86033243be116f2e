"""Verbs of who runs a federation of real machines."""

from pathlib import Path
from typing import Annotated

import typer

from fglfast.base.errors import UsageError
from fglfast.base.wording import some
from fglfast.base.writable import usable_folder
from fglfast.verbs.command import LOST, RUNS, app, exits, tell
from fglfast.verbs.documented import checked
from fglfast.verbs.options import AsJson

federation = typer.Typer(no_args_is_help=True, help="Set up a federation of real machines.")
app.add_typer(federation, name="federation", rich_help_panel=RUNS)


def init(
    out: Annotated[Path, typer.Option(help="Folder of all files; it must not exist.")],
    host: Annotated[str, typer.Option(help="The server, as clients reach it: a name or an address.")],
    clients: Annotated[str, typer.Option(help="Names of the clients, with commas.")],
    name: Annotated[str, typer.Option(help="Name of the federation, which clients sign for.")] = "federation",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the server.")] = 8080,
    experiment: Annotated[
        str, typer.Option(help="What is run: a file (.toml), or the name of a shipped one.")
    ] = "fashion",
    model: Annotated[
        str, typer.Option(help="The generator, as each client finds it: the one of the experiment's recipe.")
    ] = "mini",
    as_json: AsJson = False,
) -> None:
    """Make certificate, keys, Flower's configuration and a script for each step, a folder for each machine."""
    usable_folder(out)
    if not model.strip():
        raise UsageError("--model: empty", "give the generator as clients find it: mini, a folder, or a hub id")
    from fglfast.federation.deployment import Deployment, check_names, write_deployment
    from fglfast.federation.experiment import find_experiment

    asked = checked(
        Deployment,
        name=name,
        host=host,
        port=port,
        clients=check_names([client.strip() for client in clients.split(",") if client.strip()]),
        model=model,
        experiment=find_experiment(experiment),
    )
    folders = write_deployment(asked, out)
    lines = [
        f"{folders[0]}: for the server; run its scripts in the order of their numbers",
        f"{some([str(folder) for folder in folders[1:]])}: for the clients, each its own; bash supernode.sh DATA",
        "every folder holds private keys: take it where it belongs, and leave no copy",
    ]
    tell({"folders": [str(folder) for folder in folders]}, as_json, "\n".join(lines))


federation.command(name="init")(exits(init, LOST))


@federation.callback()
def group() -> None:
    """Set up a federation of real machines."""
