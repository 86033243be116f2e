"""Verbs that look after what other verbs left."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fglfast.base.errors import IncompleteError, UsageError
from fglfast.verbs.options import (
    DEFAULT_ENGINES,
    Allow,
    AsJson,
    BackendOption,
    BatchSize,
    Engines,
    RecipeName,
    open_engine,
    read_payloads,
    tell,
    verb,
)


@verb
def verify(
    data: Annotated[Path, typer.Argument(help="Folder made by synthesize.")],
    embeddings: Annotated[
        str | None,
        typer.Option(help="Payload files it was made of: identities are then the plan's.", show_default=False),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Draw damaged and missing shards again, byte for byte.")
    ] = False,
    recipe: RecipeName = "mini",
    model: Annotated[str | None, typer.Option(help="Overrides the recipe's model.", show_default=False)] = None,
    backend: BackendOption = None,
    batch_size: BatchSize = None,
    allow: Allow = None,
    engines: Engines = DEFAULT_ENGINES,
    as_json: AsJson = False,
) -> None:
    """Check every shard of a synthetic data set; --repair draws damaged ones again with the engine that drew them.

    Steps, guidance, seed and all else that decides the images come from the data set itself.
    """
    if allow and not embeddings:
        raise UsageError("--allow says whose payloads are read, and none are", "give --embeddings too")
    if repair and not embeddings:
        raise UsageError("--repair draws again, and needs the payloads", "give --embeddings as synthesize was given")
    from fglfast.shards.tar import shard_name
    from fglfast.synthesis import repair as mending
    from fglfast.synthesis.verify import verify as check

    merged = read_payloads(embeddings, allow) if embeddings else None
    checked = check(data, merged)
    bad = {shard_name(shard.number): shard.problem for shard in checked if shard.problem}
    mended = bool(repair and merged and bad)
    if merged and mended:
        engine = open_engine(recipe, model, backend, engines, batch_size, check=partial(mending.check_model, data))
        mending.repair(engine, merged, data, checked)
    result = {
        "folder": str(data),
        "shards": len(checked),
        "by_checksum": sum(shard.how == "checksum" for shard in checked),
        "damaged": bad,
        "repaired": mended,
    }
    lines = [f"{data / name}: {problem}{'; drawn again' if mended else ''}" for name, problem in bad.items()]
    whole = f"{data}: all {len(checked)} shards are sound" + (" now" if bad else "")
    tell(result, as_json, "\n".join([*lines, *([whole] if mended or not bad else [])]))
    if bad and not mended:
        raise IncompleteError(
            f"{data}: {len(bad)} of {len(checked)} shards are damaged or missing",
            "fglfast verify --repair, with the --embeddings, --recipe and --batch-size that synthesize was given",
        )
