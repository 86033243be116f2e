"""Verbs of a client beside `embed`: its key, and what the generator makes of its domain."""

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fglfast.command import AsJson, BackendOption, RecipeName, open_engine, read_recipe, tell, verb
from fglfast.console import emit_json, stdout
from fglfast.errors import UsageError

if TYPE_CHECKING:
    from fglfast.probe.verdict import Findings, Share


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


@verb
def probe(
    data: Annotated[str, typer.Argument(help="Private images: PATH[:SPLIT].")],
    recipe: RecipeName = "mini",
    model: Annotated[str | None, typer.Option(help="Overrides the recipe's model.", show_default=False)] = None,
    backend: BackendOption = None,
    prompt_level: Annotated[
        Literal["class", "instance"], typer.Option(help="One prompt a class, or one an image.")
    ] = "class",
    captions: Annotated[
        str | None, typer.Option(help="Of instance-level prompts, as for embed.", show_default="attributes")
    ] = None,
    domain: Annotated[
        str | None, typer.Option(help="A word for all images, such as sketch.", show_default=False)
    ] = None,
    template: Annotated[str | None, typer.Option(help="Prompt template with {label}.", show_default=False)] = None,
    images: Annotated[int, typer.Option(min=16, help="Drawn of each class, and compared with as many own.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of which images, and of the noise.")] = 0,
    picture: Annotated[
        Path | None, typer.Option(help="Write own images beside drawn ones here (.png).", show_default=False)
    ] = None,
    engines: Annotated[
        Path | None, typer.Option(help="Keep the engine here; else it is removed at the end.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell, before a client joins, how well the generator draws its domain; nothing is sent or left behind."""
    if captions is not None and prompt_level == "class":
        raise UsageError("class-level prompts have no captions", "add --prompt-level instance")
    if picture and (picture.suffix != ".png" or not picture.parent.is_dir()):
        raise UsageError(f"--picture {picture}: not a .png file in a folder that is there", "for example probe.png")
    from fglfast.client.captions import ATTRIBUTES
    from fglfast.dataset import read_dataset
    from fglfast.probe.picture import write_picture
    from fglfast.probe.run import ProbeSettings
    from fglfast.probe.run import probe as run

    dataset, settings = read_dataset(data), read_recipe(recipe)
    asked = ProbeSettings(
        images=images,
        prompt_level=prompt_level,
        template=template,
        captions=captions or ATTRIBUTES,
        domain=domain,
        seed=seed,
    )
    backend = backend or ("torch" if settings.backend == "auto" else None)  # nothing to compile for a few images
    with nullcontext(engines) if engines else tempfile.TemporaryDirectory(prefix="fglfast-probe-") as folder:
        probed = run(open_engine(recipe, model, backend, Path(folder)), settings.sampling, dataset, asked)
    if picture:
        write_picture(probed.compared, probed.findings, picture)
    _show(probed.findings, picture, as_json)


def _show(findings: "Findings", picture: Path | None, as_json: bool) -> None:
    if as_json:
        classes = [{**found.model_dump(mode="json"), "verdict": found.verdict} for found in findings.classes]
        facts = {"verdict": findings.verdict, "advice": findings.advice}
        emit_json({**facts, "picture": str(picture) if picture else None, "classes": classes})
        return
    from rich.table import Table
    from rich.text import Text

    def percent(share: "Share | None") -> str:
        return f"{share.drawn:.0%} of {share.own:.0%}" if share else "–"

    table = Table(
        "class", "compared", "recognised", "covered", "drawn", title="by drawn images, of what own ones reach"
    )
    for found in findings.classes:
        shares = percent(found.recognised), percent(found.covered)
        table.add_row(Text(found.name), f"{found.compared} of {found.images}", *shares, found.verdict)
    stdout.print(table)
    stdout.print(findings.advice, markup=False, soft_wrap=True)
    if picture:
        stdout.print(f"{picture} shows private images: it is yours to keep or delete", markup=False, soft_wrap=True)
