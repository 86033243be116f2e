"""Verbs of the files between a client and its server: look into a payload, make the key that signs it, write a kit."""

from pathlib import Path
from typing import Annotated

import typer

from fglfast.base.console import MOST_ROWS, emit_json, stdout
from fglfast.base.wording import size, some
from fglfast.verbs.command import CLIENTS, LOST, SERVER, tell, verb
from fglfast.verbs.datasets import show_shares
from fglfast.verbs.opening import asked_recipe
from fglfast.verbs.options import Allow, AsJson, OtherModel, RecipeName, read_allowed


@verb(CLIENTS, LOST)
def inspect(
    file: Annotated[
        Path, typer.Argument(readable=False, help="Payload file, as embed writes it, or folder of synthetic images.")
    ],
    allow: Allow = None,
    as_json: AsJson = False,
) -> None:
    """Check a payload and show what it holds and reveals; of a synthetic data set, whose prompts caused what."""
    if file.is_dir():
        show_shares(file, as_json)
        return
    import numpy as np
    from rich.table import Column, Table
    from rich.text import Text

    from fglfast.payload import load_signed, tensor_bytes
    from fglfast.payload.merge import merge_payloads, same_prompts, same_words

    payload, signature = load_signed(file, allowed=read_allowed(allow))
    header = payload.header
    images = np.zeros(len(header.class_names), dtype=np.int64)
    np.add.at(images, payload.labels, payload.counts)
    routed = payload.routes is not None  # whose prompts are the server's to make
    together = [] if routed else same_prompts(merge_payloads([payload]))
    by_class = dict(zip(header.class_names, images.tolist(), strict=True))
    result = {
        "file": str(file),
        "bytes": file.stat().st_size if file.exists() else 0,
        "client": header.client,
        "format_version": header.format_version,
        "prompt_level": header.prompt_level,
        "domain": header.domain,
        "inventory": header.inventory,
        "text_encoder": header.text_encoder,
        "privacy": header.privacy.model_dump() if header.privacy else None,
        "reveals": payload.reveals,
        "form": payload.form,
        "shape": list((payload.prompts() if payload.routes is None else payload.routes).shape),
        "tensor_bytes": tensor_bytes(payload),
        "images_by_class": by_class,
        "same_prompt": together,
        "digest": payload.digest(),
        "signature": signature
        and {**signature.model_dump(mode="json", exclude={"value"}), "proved": allow is not None},
    }
    if as_json:
        emit_json(result)
        return
    table = Table("what", Column(overflow="fold"), title=Text(f"{file.name}: a valid payload"), show_header=False)
    for key, value in {**result, "same_prompt": same_words(together) if together else "no classes"}.items():
        shown = (
            some([f"{k} {v}" for k, v in value.items() if v or v is False], MOST_ROWS)
            if isinstance(value, dict)
            else str(value)
        )
        table.add_row(key.replace("_", " "), Text(shown))  # a stranger's words are not markup
    stdout.print(table)


@verb(CLIENTS, LOST)
def key(
    file: Annotated[Path, typer.Argument(help="File of the private key (PEM), made if it is not there.")],
    as_json: AsJson = False,
) -> None:
    """Make the private key that signs a client's payloads, and print the public one for the server's list."""
    from fglfast.payload.keys import find_or_make_key

    public, made = find_or_make_key(file)
    origin = "a new private key: keep it secret" if made else "the private key that was there"
    tell({"file": str(file), "public_key": public, "made": made}, as_json, f"{file}: {origin}\npublic key: {public}")


@verb(SERVER, LOST)
def kit(
    out: Annotated[Path, typer.Option(help="Folder of the kit, to be handed to the clients.")],
    recipe: RecipeName = None,
    model: OtherModel = None,
    weights: Annotated[
        bool, typer.Option("--weights", help="Add the text encoder's weights: with them clients can send embeddings.")
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
