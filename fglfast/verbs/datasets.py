"""Verbs of a synthetic data set that is there: whether it is sound, who caused what, a client that leaves."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from fglfast.base.console import emit_json, note, print_table, stdout
from fglfast.base.errors import IncompleteError, UsageError
from fglfast.base.wording import many, some
from fglfast.shards.description import page_of
from fglfast.verbs.command import SERVER, tell, verb
from fglfast.verbs.opening import asked_recipe, open_engine, open_judge
from fglfast.verbs.options import (
    DEFAULT_ENGINES,
    Allow,
    AsJson,
    BatchSize,
    Engines,
    InventoryFile,
    JudgeName,
    OtherBackend,
    OtherModel,
    OtherPrecision,
    OtherSize,
    RecipeName,
    each_payload,
    read_payloads,
    refuse_given,
)


@verb(SERVER)
def verify(
    data: Annotated[Path, typer.Argument(help="Folder of synthetic images, as synthesize leaves it.")],
    embeddings: Annotated[
        str | None,
        typer.Option(
            help="Payload files it was drawn from: each image is then compared with the plan, and --repair can draw."
        ),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Draw damaged and missing shards again, byte for byte; needs --embeddings.")
    ] = False,
    recipe: RecipeName = None,
    model: OtherModel = None,
    backend: OtherBackend = None,
    precision: OtherPrecision = None,
    image_size: OtherSize = None,
    batch_size: BatchSize = None,
    inventory: InventoryFile = None,
    judge: JudgeName = None,
    allow: Allow = None,
    engines: Engines = DEFAULT_ENGINES,
    as_json: AsJson = False,
) -> None:
    """Check every shard of a synthetic data set, and draw damaged ones again with --repair.

    Steps, guidance, seed and all else that decides the images come from the data set itself.
    """
    if allow and not embeddings:
        raise UsageError("--allow says whose payloads may be read, and no payloads are given", "give --embeddings too")
    if inventory and not embeddings:
        raise UsageError("--inventory makes rows of payloads, and no payloads are given", "give --embeddings too")
    if repair and not embeddings:
        raise UsageError(
            "--repair draws images again, and needs the payloads they come from",
            "give the --embeddings that synthesize was given",
        )
    if not repair:
        refuse_given(
            "is of drawing images again",
            "add --repair, or leave it out",
            recipe=None if inventory else recipe,  # whose text encoder makes rows of routing
            model=None if inventory else model,
            backend=backend,
            precision=precision,
            image_size=image_size,
            batch_size=batch_size,
            judge=judge,
        )
    from fglfast.shards.tar import shard_name
    from fglfast.synthesis.verify import verify as check

    asked = asked_recipe(recipe, model, backend, precision, image_size, batch_size) if embeddings else None
    merged = read_payloads(embeddings, allow, inventory, asked) if embeddings else None
    checked = check(data, merged)
    bad = {shard_name(shard.number): shard.problem for shard in checked if shard.problem}
    mended = bool(repair and merged and bad)
    if merged and asked and mended:
        from fglfast.engine.build import LazyEngine
        from fglfast.synthesis import repair as mending

        check_model = partial(mending.check_model, data)
        drawing = LazyEngine(asked, engines, partial(open_engine, asked, engines, batch_size, check=check_model))
        judging = open_judge(judge, merged.class_names, drawing)
        mending.repair(drawing.engine, merged, data, checked, judging)
    result = {
        "folder": str(data),
        "shards": len(checked),
        "by_checksum": sum(shard.how == "checksum" for shard in checked),
        "damaged": bad,
        "repaired": mended,
    }
    lines = [f"{data / name}: {problem}{'; drawn again' if mended else ''}" for name, problem in bad.items()]
    whole = f"{data}: {many(len(checked), 'shard')}, all sound" + (" now" if bad else "")
    tell(result, as_json, "\n".join([*lines, *([whole] if mended or not bad else [])]))
    if bad and not mended:
        raise IncompleteError(
            f"{data}: damaged or missing: {len(bad)} of {many(len(checked), 'shard')}",
            "run fglfast verify --repair with --embeddings, and what synthesize was given of --recipe, --model, "
            "--backend, --precision, --image-size, --batch-size, --judge and --inventory",
        )


@verb(SERVER)
def forget(
    client: Annotated[str, typer.Argument(help="Name of the client that leaves.")],
    out: Annotated[Path, typer.Option(help="Folder of the data set, as synthesize leaves it.")],
    embeddings: Annotated[
        str,
        typer.Option(
            help="Payload files of the clients that stay: a quoted pattern. Of the leaving one's, if it is among them, "
            "no more is read than its name."
        ),
    ],
    recipe: RecipeName = None,
    model: OtherModel = None,
    backend: OtherBackend = None,
    precision: OtherPrecision = None,
    image_size: OtherSize = None,
    batch_size: BatchSize = None,
    inventory: InventoryFile = None,
    judge: JudgeName = None,
    allow: Allow = None,
    engines: Engines = DEFAULT_ENGINES,
    as_json: AsJson = False,
) -> None:
    """Take a client out of a synthetic data set: images that only its prompts caused, its rows and its name.

    Other clients' prompts get its share of a class, so that classes stay balanced; what is there of theirs stays. A
    receipt is left in the folder, without the client's name.
    """
    from fglfast.synthesis.drawn import Drawn

    class_names = Drawn.of(out).class_names
    asked = asked_recipe(recipe, model, backend, precision, image_size, batch_size)
    payloads = each_payload(embeddings, allow, inventory, asked, leaving=client)
    from fglfast.engine.build import LazyEngine
    from fglfast.synthesis.forget import forget as stage
    from fglfast.synthesis.repair import check_model

    check = partial(check_model, out)
    drawing = LazyEngine(asked, engines, partial(open_engine, asked, engines, batch_size, check=check))
    judging = open_judge(judge, class_names, drawing)
    receipt = stage(client, payloads, out, lambda: drawing.engine, judging)
    line = (
        f"{out}: {client} is forgotten: {receipt['images_removed']:,} images and {receipt['rows_removed']:,} prompts "
        f"are gone, {receipt['images_kept']:,} images stay, {receipt['images_drawn']:,} were drawn"
    )
    tell({"folder": str(out), **receipt}, as_json, line)
    note(f"{receipt['remains']} A model without it: fglfast train {quote(str(out))} --out ANOTHER-FOLDER")
    if (page := page_of(out)).exists():
        note(f"{page} shows the images as they were, and {client}: fglfast report {quote(str(out))} writes it anew")


def show_shares(folder: Path, as_json: bool) -> None:
    """Show the images of a data set by client and class."""
    from rich.table import Column, Table
    from rich.text import Text

    from fglfast.synthesis.accounts import together
    from fglfast.synthesis.drawn import Drawn
    from fglfast.synthesis.provenance import shares

    found, drawn = shares(folder), Drawn.of(folder)
    images = dict.fromkeys(drawn.class_names, 0)
    for row in drawn.rows:
        images[drawn.class_names[row.label]] += row.images
    if as_json:
        clients = {
            client: {**asdict(together(own)), "by_class": {name: asdict(share) for name, share in own.items()}}
            for client, own in found.items()
        }
        emit_json({"folder": str(folder), "plan": drawn.plan, "images_by_class": images, "clients": clients})
        return
    columns = (
        "client",
        Column("claimed", overflow="fold"),
        "images",
        "of its alone",
        "empty prompts",
        Column("by class", overflow="fold"),
    )
    rows = []
    for client, own in found.items():
        share = together(own)
        words = some([f"{name} {part.images:,}" for name, part in own.items() if part.images])
        empty = f"{share.empty:,} of {share.rows:,}"
        rows.append((client, f"{share.claimed:,}", f"{share.images:,}", f"{share.alone:,}", empty, words))
    print_table(Table(*columns, title=Text(f"{folder.name}: {many(drawn.images, 'image')} by client")), rows)
    present = [f"{name} {count:,}" for name, count in images.items() if count]
    stdout.print(f"by class: {some(present)}; {many(len(drawn.rows), 'distinct prompt')}", markup=False, soft_wrap=True)
