"""Verbs for clients beside embed: whether the generator can draw their images, and a model fitted to those."""

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fglfast.base.config import MOST_SEED
from fglfast.base.console import emit_json, print_table, stdout
from fglfast.base.errors import UsageError
from fglfast.verbs.command import CLIENTS, LOST, tell, verb
from fglfast.verbs.documented import checked
from fglfast.verbs.opening import asked_recipe, open_engine
from fglfast.verbs.options import (
    AsJson,
    Domain,
    OtherBackend,
    OtherModel,
    OtherPrecision,
    OtherSize,
    PromptLevel,
    RecipeName,
    Template,
)

if TYPE_CHECKING:
    from fglfast.lab.probe.verdict import Findings, Share
    from fglfast.training.results import AdaptResult


@verb(CLIENTS, LOST, extra="embed")
def adapt(
    model: Annotated[Path, typer.Argument(help="Folder of a global model, as train or a federation leaves it.")],
    data: Annotated[str, typer.Argument(help="Labelled images of your own: PATH[:SPLIT], as for embed.")],
    out: Annotated[Path, typer.Option(help="Folder of the fitted model.")],
    shots: Annotated[
        int, typer.Option(min=1, help="Images of each class whose labels are looked at; all, where there are fewer.")
    ] = 5,
    unlabelled: Annotated[
        str | None,
        typer.Option(
            help="More images of your own, PATH[:SPLIT]: their labels are not looked at.",
            show_default="the images of DATA that are no shots",
        ),
    ] = None,
    prototypes: Annotated[
        Path | None,
        typer.Option(help="Folder of the synthetic images that the model learned from, if it came without prototypes."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of which images are the shots.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Fit a global model to your own images by a few labelled ones, where that names more; nothing is sent."""
    from fglfast.images.dataset import read_dataset
    from fglfast.training.settings import AdaptSettings

    own, others = read_dataset(data), read_dataset(unlabelled, labelled=False) if unlabelled else None
    from fglfast.training.adapt import adapt as fit

    found = fit(model, own, out, checked(AdaptSettings, shots=shots, seed=seed), others, prototypes)
    tell(found.model_dump(mode="json"), as_json, _adapted(found))


def _adapted(found: "AdaptResult") -> str:
    shots = f"{found.shots} labelled images of {found.classes} classes"
    if found.layer == "trained":
        return (
            f"{found.model}: the model as it was, which names {found.before:.0%} of {shots}: no layer is clearly better"
        )
    after = "too few to tell how many it names now" if found.after is None else f"{found.after:.0%} now, each unseen"
    return f"{found.model}: a new last layer ({found.layer}); of {shots} it named {found.before:.0%}, {after}"


@verb(CLIENTS, LOST)
def probe(
    data: Annotated[str, typer.Argument(help="Private images: PATH[:SPLIT], as for embed.")],
    recipe: RecipeName = None,
    model: OtherModel = None,
    backend: OtherBackend = None,
    precision: OtherPrecision = None,
    image_size: OtherSize = None,
    prompt_level: PromptLevel = "class",
    captions: Annotated[
        str | None, typer.Option(help="Captions of instance-level prompts, as for embed.", show_default="attributes")
    ] = None,
    domain: Domain = None,
    template: Template = None,
    images: Annotated[
        int, typer.Option(min=16, help="Images drawn of each class, and compared with as many private ones.")
    ] = 64,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, help="Seed of the choice of images, and of the noise.")
    ] = 0,
    picture: Annotated[
        Path | None, typer.Option(help="Picture to write (.png): private images beside drawn ones.")
    ] = None,
    engines: Annotated[
        Path | None, typer.Option(help="Folder to keep the compiled engine in; removed at the end unless given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell, before a client joins, how well the generator draws images like its own; nothing leaves the machine."""
    if captions is not None and prompt_level == "class":
        raise UsageError("class-level prompts have no captions", "add --prompt-level instance")
    if picture and (picture.suffix != ".png" or not picture.parent.is_dir()):
        raise UsageError(f"--picture {picture}: must be a .png file in an existing folder", "for example probe.png")
    from fglfast.base.writable import usable_file
    from fglfast.client.captions import ATTRIBUTES
    from fglfast.images.dataset import read_dataset

    if picture:
        usable_file(picture, "picture of fglfast")
    dataset, settings = read_dataset(data), asked_recipe(recipe, model, backend, precision, image_size)
    from fglfast.lab.probe.picture import write_picture
    from fglfast.lab.probe.probe import ProbeSettings, check_enough
    from fglfast.lab.probe.probe import probe as run

    check_enough(dataset)
    asked = checked(
        ProbeSettings,
        images=images,
        prompt_level=prompt_level,
        template=template,
        captions=captions or ATTRIBUTES,
        domain=domain,
        seed=seed,
    )
    if backend is None and settings.backend == "auto":
        settings = settings.model_copy(update={"backend": "torch"})  # nothing to compile for a few images
    with nullcontext(engines) if engines else tempfile.TemporaryDirectory(prefix="fglfast-probe-") as folder:
        probed = run(open_engine(settings, Path(folder)), settings.sampling, dataset, asked)
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

    def percent(share: "Share | None") -> str:
        return f"{share.drawn:.0%} of {share.own:.0%}" if share else "–"

    table = Table(
        "class", "compared", "recognised", "covered", "drawn", title="what drawn images reach, of what private ones do"
    )
    rows = []
    for found in sorted(findings.classes, key=lambda found: (found.score is None, found.score)):
        shares = percent(found.recognised), percent(found.covered)
        rows.append((found.name, f"{found.compared} of {found.images}", *shares, found.verdict))
    print_table(table, rows)
    stdout.print(findings.advice, markup=False, soft_wrap=True)
    if picture:
        stdout.print(f"{picture} shows private images: it is yours to keep or delete", markup=False, soft_wrap=True)
