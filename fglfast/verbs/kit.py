"""The verb that writes what clients need to speak to a server's generator."""

from pathlib import Path
from typing import Annotated

import typer

from fglfast.base.wording import size
from fglfast.verbs.command import LOST, SERVER, tell, verb
from fglfast.verbs.opening import asked_recipe
from fglfast.verbs.options import AsJson, OtherModel, RecipeName


@verb(SERVER, LOST)
def kit(
    out: Annotated[Path, typer.Option(help="Folder of the kit, to be handed to the clients.")],
    recipe: RecipeName = None,
    model: OtherModel = None,
    weights: Annotated[
        bool,
        typer.Option("--weights", help="Add the text encoder's weights: with them clients can send embeddings."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a client kit: tokenizer, prompts and fingerprint of a generator, so that clients need no model."""
    from fglfast.generator.kit import write_kit
    from fglfast.generator.parts import name_of
    from fglfast.generator.text import resolve_text, text_fingerprint

    asked = asked_recipe(recipe, model)
    folder = resolve_text(asked.model, asked.revision, asked.mirror)
    name = name_of(folder)
    written = write_kit(folder, out, name, asked.image_size, weights)
    result = {"folder": str(out), "bytes": written, "model": name, "text_encoder": text_fingerprint(out)}
    use = "embeddings or tokens" if weights else "tokens"
    tell(result, as_json, f"{out}: {size(written)}; clients send {use} with fglfast embed DATA --kit {out}")
