"""Verbs for clients: what one uploads, whether the generator can draw its images, and a model fitted to them."""

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fglfast.base.console import emit_json, print_table, stdout
from fglfast.base.errors import UsageError
from fglfast.verbs.command import CLIENTS, LOST, tell, verb
from fglfast.verbs.opening import asked_recipe, open_engine
from fglfast.verbs.options import (
    AsJson,
    Domain,
    ModelName,
    OtherBackend,
    OtherModel,
    OtherPrecision,
    OtherSize,
    PromptLevel,
    RecipeName,
    Template,
)
from fglfast.verbs.unlabelled import check_unlabelled, open_images

if TYPE_CHECKING:
    from fglfast.lab.probe.verdict import Findings, Share
    from fglfast.training.results import AdaptResult


@verb(CLIENTS, extra="embed")
def embed(
    data: Annotated[str, typer.Argument(help="Private images: PATH[:SPLIT] (class folders, parquet, datasets, npz).")],
    out: Annotated[Path, typer.Option(help="The payload file to write (.safetensors).")],
    model: ModelName = "mini",
    kit: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the server's client kit, instead of a model; without weights it sends tokens.",
            show_default=False,
        ),
    ] = None,
    prompt_level: PromptLevel = "class",
    captions: Annotated[
        str | None,
        typer.Option(
            help="Captions of instance-level prompts: attributes (words measured in the image), a captioning model's "
            "folder or id on the hub, or your own file (JSON, CSV).",
            show_default="attributes",
        ),
    ] = None,
    domain: Domain = None,
    send: Annotated[
        Literal["embeddings", "int8", "tokens"],
        typer.Option(help="What is uploaded: text embeddings in 16 bits, in eight, or token ids."),
    ] = "embeddings",
    client: Annotated[
        str | None, typer.Option(help="Name of this client; that of the --out file unless given.", show_default=False)
    ] = None,
    template: Template = None,
    sign: Annotated[
        Path | None,
        typer.Option(help="Private key to sign the payload with; fglfast key makes one.", show_default=False),
    ] = None,
    federation: Annotated[
        str | None, typer.Option(help="Name of the federation that --sign signs for.", show_default=False)
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(
            help="Differential privacy: add noise until all --uploads reveal at most this much of an image.",
            show_default=False,
        ),
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option(
            help="Chance that more than --epsilon is revealed; keep it below 1 / images.", show_default="1e-5"
        ),
    ] = None,
    clip: Annotated[
        float | None,
        typer.Option(
            help="With --epsilon, the most by which a caption may change an embedding (L2 norm).",
            show_default="the measured words' spread",
        ),
    ] = None,
    uploads: Annotated[
        int | None,
        typer.Option(help="Uploads of the same images, this one among them, that share --epsilon.", show_default="1"),
    ] = None,
    learn: Annotated[
        bool,
        typer.Option(
            "--learn", help="Fit the class prompts' embeddings to the images; a second call goes on where it stopped."
        ),
    ] = False,
    learn_steps: Annotated[int, typer.Option(min=1, help="Training steps of --learn, for all classes together.")] = 500,
    vectors: Annotated[int, typer.Option(min=1, help="Vectors of each class's embedding that --learn fits.")] = 15,
    unlabelled: Annotated[
        bool,
        typer.Option(
            "--unlabelled", help="The images have no labels, or none that count: --classifier finds some for them."
        ),
    ] = False,
    classifier: Annotated[
        Path | None,
        typer.Option(
            help="Model folder that the server trained on synthetic images, for --unlabelled.", show_default=False
        ),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            help="File with the federation's classes, one name a line, for --unlabelled.",
            show_default="the classifier's own",
        ),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="With --unlabelled, how sure a label must be for its image to count.", show_default="0.5"
        ),
    ] = None,
    least_images: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --unlabelled, images below which a class is taken for a mistake.", show_default="5"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn private images into a payload of prompt embeddings, the one file that a client uploads."""
    check_unlabelled(unlabelled, classifier, epsilon, classes=classes, confidence=confidence, least_images=least_images)
    _check_kind(prompt_level, captions, learn, kit, model)
    from fglfast.base.files import usable_file
    from fglfast.client.captions import ATTRIBUTES
    from fglfast.client.embed import embed as embed_dataset
    from fglfast.client.privacy import asked_budget
    from fglfast.generator.kit import check_kit
    from fglfast.generator.text import resolve_model, resolve_text
    from fglfast.payload import open_signer, save_payload

    usable_file(out)
    signer = open_signer(sign, federation)
    budget = asked_budget(epsilon=epsilon, delta=delta, clip=clip, uploads=uploads)
    if learn and budget:
        raise UsageError("--learn adds no noise", "leave out --epsilon, or --learn")
    if kit:
        check_kit(kit)
    find = resolve_model if learn else resolve_text
    folder, name = kit or find(model), client or out.stem
    dataset, counts, facts = open_images(data, classifier, classes, confidence, least_images)
    if learn:
        from fglfast.client.learn import LearnSettings
        from fglfast.client.learn import learn as learn_from

        settings = LearnSettings(steps=learn_steps, vectors=vectors)
        learned = learn_from(dataset, name, folder, out.with_suffix(".learning"), settings, send, template, domain)
        payload = learned.payload
        facts |= {"class_level_loss": learned.class_level, "learned_loss": learned.learned}
    else:
        captions = captions or ATTRIBUTES
        payload = embed_dataset(dataset, name, folder, prompt_level, send, template, captions, domain, budget, counts)
    size = save_payload(payload, out, signer)
    result = {
        "file": str(out),
        "bytes": size,
        "form": payload.form,
        "rows": len(payload.labels),
        "images": int(payload.counts.sum()),
        "signed": signer is not None,
        "privacy": payload.header.privacy.model_dump() if payload.header.privacy else None,
        **facts,
    }
    about = "about " if budget else ""
    tell(result, as_json, f"{out}: {result['rows']} rows from {about}{result['images']} images, {size:,} bytes")


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
        typer.Option(
            help="Folder of the synthetic images that the model learned from, if it came without prototypes.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of which images are the shots.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Fit a global model to your own images by a few labelled ones, where that names more; nothing is sent."""
    from fglfast.images.dataset import read_dataset
    from fglfast.training.adapt import adapt as fit
    from fglfast.training.settings import AdaptSettings

    others = read_dataset(unlabelled) if unlabelled else None
    found = fit(model, read_dataset(data), out, AdaptSettings(shots=shots, seed=seed), others, prototypes)
    tell(found.model_dump(mode="json"), as_json, _adapted(found))


def _adapted(found: "AdaptResult") -> str:
    shots = f"{found.shots} labelled images of {found.classes} classes"
    if found.layer == "trained":
        return (
            f"{found.model}: the model as it was, which names {found.before:.0%} of {shots}: no layer is clearly better"
        )
    after = "too few to tell how many it names now" if found.after is None else f"{found.after:.0%} now, each unseen"
    return f"{found.model}: a new last layer ({found.layer}); of {shots} it named {found.before:.0%}, {after}"


def _check_kind(prompt_level: str, captions: str | None, learn: bool, kit: Path | None, model: str) -> None:
    """Refuse what kinds of prompts and models do not go together."""
    if captions is not None and prompt_level == "class":
        raise UsageError("class-level prompts have no captions", "add --prompt-level instance")
    if learn and prompt_level == "instance":
        raise UsageError(
            "--learn makes one embedding for each class, not for each image", "leave out --prompt-level instance"
        )
    if kit and (learn or model != "mini"):
        raise UsageError("a kit stands in for the model, and has none to learn with", "leave out --kit, or the others")


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
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of images, and of the noise.")] = 0,
    picture: Annotated[
        Path | None, typer.Option(help="Picture to write (.png): private images beside drawn ones.", show_default=False)
    ] = None,
    engines: Annotated[
        Path | None,
        typer.Option(
            help="Folder to keep the compiled engine in; removed at the end unless given.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell, before a client joins, how well the generator draws images like its own; nothing leaves the machine."""
    if captions is not None and prompt_level == "class":
        raise UsageError("class-level prompts have no captions", "add --prompt-level instance")
    if picture and (picture.suffix != ".png" or not picture.parent.is_dir()):
        raise UsageError(f"--picture {picture}: must be a .png file in an existing folder", "for example probe.png")
    from fglfast.client.captions import ATTRIBUTES
    from fglfast.images.dataset import read_dataset
    from fglfast.lab.probe.picture import write_picture
    from fglfast.lab.probe.probe import ProbeSettings
    from fglfast.lab.probe.probe import probe as run

    dataset, settings = read_dataset(data), asked_recipe(recipe, model, backend, precision, image_size)
    asked = ProbeSettings(
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
