"""Options that several verbs have, and what those of payloads and ranks stand for."""

import glob
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fglfast.base.console import speaker
from fglfast.base.errors import BadInputError, UsageError
from fglfast.base.ranks import Rank, find_rank, take_place
from fglfast.base.wording import some
from fglfast.engine.choices import BackendName, PrecisionName


def _number(value: float | None) -> float | None:
    """Refuse what is not a number: it is out of no range."""
    if value is not None and math.isnan(value):
        raise typer.BadParameter("nan is not a number")
    return value


AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Engines = Annotated[
    Path, typer.Option(help="Folder of compiled engines, each under its key.", envvar="FGLFAST_ENGINES")
]
ModelName = Annotated[
    str,
    typer.Option(
        help="Text-to-image model: mini, the folder of a diffusers model, a checkpoint (.safetensors), or a hub id."
    ),
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        help="Recipe of the engine: the name of a shipped one, or a .toml file.",
        show_default="mini, or that of the model's family",
    ),
]
OtherModel = Annotated[
    str | None,
    typer.Option(help="Model to use instead of the recipe's: a folder, a checkpoint (.safetensors), or a hub id."),
]
OtherPrecision = Annotated[
    PrecisionName | None, typer.Option(help="Precision of weights and arithmetic, instead of the recipe's.")
]
OtherSize = Annotated[
    int | None,
    typer.Option(min=8, max=4096, help="Side in pixels of the images that are drawn, instead of the recipe's."),
]
OtherSteps = Annotated[int | None, typer.Option(min=1, max=1000, help="Sampling steps, instead of the recipe's.")]
OtherGuidance = Annotated[
    float | None, typer.Option(min=0, max=50, callback=_number, help="Guidance scale, instead of the recipe's.")
]
OtherBackend = Annotated[
    BackendName | None,
    typer.Option(help="What compiles and runs the generator, instead of the recipe's; auto takes the fastest here."),
]
RandomWeights = Annotated[
    bool,
    typer.Option("--random-weights", help="Fill the recipe's architecture with random weights: nothing is fetched."),
]
BatchSize = Annotated[
    str | None,
    typer.Option(
        help="Rows of one pass through the UNet; auto measures what is fastest, for the VAE too.", metavar="N|auto"
    ),
]
PromptLevel = Annotated[
    Literal["class", "instance"], typer.Option(help="Whether a client writes one prompt a class, or one an image.")
]
Domain = Annotated[str | None, typer.Option(help="A word for the style of all images, such as sketch.")]
Template = Annotated[
    str | None, typer.Option(help="Prompt template, with {label} for the class, instead of the model's.")
]
Allow = Annotated[
    Path | None,
    typer.Option(help="File (.toml) of clients and their public keys: only payloads signed with these are read."),
]
JudgeName = Annotated[
    str | None,
    typer.Option(
        help="Who scores how well each image fits its class: generator (the one that draws), label-flow (what pretrain "
        "taught it of labels), another generator, a model of CLIP's kind, or the folder of a classifier."
    ),
]
AllowSamePrompt = Annotated[
    bool,
    typer.Option(
        "--allow-same-prompt", help="Go on when classes send the same prompt: their images differ in the label alone."
    ),
]
TrustedCounts = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CLIENT",
        help="Believe this client's counts, however far they outweigh all others' of a class; may be repeated.",
    ),
]
InventoryFile = Annotated[
    Path | None,
    typer.Option(
        help="File of adapters that routed payloads mix, as fglfast inventory made it; the clients have a copy."
    ),
]
DEFAULT_ENGINES = Path("engines/build")


def join_ranks(take: Callable[[Rank], None] = take_place) -> Rank:
    """Find out which of several processes this one is, take its GPU, and sign its messages."""
    rank = find_rank()
    if rank.world_size > 1:
        speaker.name, speaker.leads = str(rank), rank.number == 0
        take(rank)
    return rank


def payload_files(pattern: str) -> list[Path]:
    """The files that a pattern names, sorted; a part of it that exists as it is written is taken literally."""
    found = [Path()]
    for part in Path(pattern).parts:
        found = [path for folder in found for path in _entries(folder, part)]
    if not found:
        raise BadInputError(f"no payload file matches {pattern!r}", "make one with fglfast embed; quote the pattern")
    return sorted(found)


def _entries(folder: Path, part: str) -> list[Path]:
    """What one part of a pattern names in a folder: brackets are literal where such a file exists."""
    if os.path.lexists(folder / part):
        return [folder / part]
    return [folder / name for name in glob.glob(part, root_dir=folder)]  # noqa: PTH207 (leaves hidden files out)


def read_payloads(pattern: str, allow: Path | None, inventory: Path | None = None, recipe: Any = None) -> Any:
    """The rows of all payloads that a pattern names; with `allow`, all must be signed by clients on that list.

    With `inventory`, routed ones are read too: they become rows by its adapters and the text encoder of `recipe`.
    """
    from fglfast.payload.merge import merge_payloads

    return merge_payloads(each_payload(pattern, allow, inventory, recipe))


def each_payload(
    pattern: str, allow: Path | None, inventory: Path | None = None, recipe: Any = None, leaving: str | None = None
) -> Iterator[Any]:
    """One payload after the other, as `read_payloads` takes them; that of a client who is `leaving` is left out."""
    from fglfast.payload import load_payload

    allowed = read_allowed(allow)
    files = [path for path in payload_files(pattern) if leaving is None or not _is_of(leaving, path)]
    if inventory is None:
        yield from (load_payload(path, allowed=allowed) for path in files)
        return
    from fglfast.synthesis.routed import Router

    router = Router(recipe.model_folder("text"), inventory)
    yield from (router.rows(load_payload(path, allowed=allowed)) for path in files)


def _is_of(client: str, path: Path) -> bool:
    """Whether a payload is a client's: its header says so, or the file's name where that cannot be read."""
    from fglfast.payload import client_of

    try:
        return client_of(path) == client
    except BadInputError as error:
        if path.stem == client:
            return True
        hint = f"leave it out of the pattern if it is the payload of {client}; else {error.hint}"
        raise BadInputError(error.message, hint) from error


def refuse_given(why: str, hint: str, **options: object) -> None:
    """Refuse options of work that is not asked for: those that are not None.

    Raises:
        UsageError: naming the first of them.
    """
    if given := [name for name, value in options.items() if value is not None]:
        raise UsageError(f"--{given[0].replace('_', '-')} {why}", hint)


def check_merged(merged: Any, allow_same_prompt: bool, trusted: list[str] | None, max_share: float = 1.0) -> None:
    """Refuse what payloads together must not say unasked: classes of one prompt, and claims that outweigh all others.

    Raises:
        UsageError: a name is nobody's.
        BadInputError: classes send the same prompt, or a claim is excessive and its client not trusted.
    """
    from fglfast.payload.claims import check_claims
    from fglfast.payload.merge import check_prompts

    check_prompts(merged, allow_same_prompt, "--allow-same-prompt")
    names = trusted or ()
    if unknown := [name for name in names if name not in merged.clients]:
        raise UsageError(f"--trusted-counts: no client {some(unknown)}", f"clients: {some(merged.clients)}")
    check_claims(merged, names, max_share, "--trusted-counts CLIENT, or cap all by --max-share-per-client 0.5")


def prove_payloads(pattern: str, model: Path) -> None:
    """Refuse class-level payloads of which a row is not the encoding of its class."""
    from fglfast.payload import load_payload
    from fglfast.synthesis.class_rows import ClassRows

    rows = ClassRows(model)
    for path in payload_files(pattern):
        rows.check(load_payload(path))


def read_allowed(allow: Path | None) -> Any:
    """The list of clients that may send, or None for anyone."""
    from fglfast.payload import AllowList

    return AllowList.from_toml(allow) if allow else None
