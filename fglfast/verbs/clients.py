"""Verbs of a client beside `embed`: its key."""

from pathlib import Path
from typing import Annotated

import typer

from fglfast.command import AsJson, tell, verb


@verb
def key(
    file: Annotated[Path, typer.Argument(help="The private key's file (PEM); made if it is not there.")],
    as_json: AsJson = False,
) -> None:
    """Make a client's private key, once, and print the public one: what a server puts on its list."""
    from fglfast.payload.keys import find_or_make_key

    public, made = find_or_make_key(file)
    origin = "a new private key: keep it to yourself" if made else "the private key that is there"
    tell({"file": str(file), "public_key": public, "made": made}, as_json, f"{file}: {origin}\npublic key: {public}")
