"""Options that push what a command makes to the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated

import typer

from fglfast.base.console import note
from fglfast.base.errors import UsageError
from fglfast.base.hub import Kind, Repository

PushToHub = Annotated[
    str | None, typer.Option(metavar="ORG/NAME", help="Push what is made to this repository of the Hugging Face Hub.")
]
Private = Annotated[bool, typer.Option("--private", help="Make that repository a private one, if it is not there yet.")]


def repository(name: str | None, private: bool, kind: Kind) -> Repository | None:
    """The repository that is to be pushed to, made before the work begins; None if nothing is to be pushed.

    Raises:
        UsageError: the options contradict each other, or no repository can be called so.
        FglError: the hub cannot be reached, or refuses.
    """
    if name is None:
        if private:
            raise UsageError("--private says who may see a repository, and none is named", "give --push-to-hub too")
        return None
    found = Repository(name, kind, private)
    found.create()
    return found


def pushed(hub: Repository | None, folder: Path, leave_out: tuple[str, ...] = ()) -> None:
    """Push a finished folder, if it is to be pushed, and say where it is."""
    if hub:
        note(f"pushed to {hub.push(folder, leave_out)}")
