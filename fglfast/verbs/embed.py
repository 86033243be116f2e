"""A client's first verb: its images into the one file that it uploads."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fglfast.base.console import note
from fglfast.base.errors import UsageError
from fglfast.base.wording import many
from fglfast.client.settings import LearnSettings, RouteSettings
from fglfast.verbs.command import CLIENTS, tell, verb
from fglfast.verbs.documented import checked
from fglfast.verbs.options import AsJson, Domain, ModelName, PromptLevel, Template
from fglfast.verbs.unlabelled import check_unlabelled, open_images

if TYPE_CHECKING:
    from fglfast.client.learn import Learned

LEARN = LearnSettings()


@verb(CLIENTS, extra="embed")
def embed(
    data: Annotated[str, typer.Argument(help="Private images: PATH[:SPLIT] (class folders, CSV, parquet, npz).")],
    out: Annotated[Path, typer.Option(help="The payload file to write (.safetensors).")],
    model: ModelName = "mini",
    kit: Annotated[
        Path | None,
        typer.Option(help="Folder of the server's client kit, instead of a model; without weights it sends tokens."),
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
        str | None, typer.Option(help="Name of this client; that of the --out file unless given.")
    ] = None,
    template: Template = None,
    sign: Annotated[
        Path | None, typer.Option(help="Private key to sign the payload with; fglfast key makes one.")
    ] = None,
    federation: Annotated[str | None, typer.Option(help="Name of the federation that --sign signs for.")] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(help="Differential privacy: add noise until all --uploads reveal at most this much of an image."),
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
    route: Annotated[
        Path | None,
        typer.Option(
            help="Inventory of the server's adapters: learn which mixture of them fits the images, and send that "
            "alone; a second call goes on where it stopped."
        ),
    ] = None,
    learn_steps: Annotated[
        int, typer.Option(min=1, help="Training steps of --learn, for all classes together.")
    ] = LEARN.steps,
    route_steps: Annotated[
        int, typer.Option(min=1, help="Training steps of --route, for all classes together.")
    ] = RouteSettings().steps,
    vectors: Annotated[
        int, typer.Option(min=1, help="Vectors of each class's embedding that --learn fits.")
    ] = LEARN.vectors,
    unlabelled: Annotated[
        bool,
        typer.Option(
            "--unlabelled", help="The images have no labels, or none that count: --classifier finds some for them."
        ),
    ] = False,
    classifier: Annotated[
        Path | None, typer.Option(help="Model folder that the server trained on synthetic images, for --unlabelled.")
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            help="File with the federation's classes, one name a line; of some there may be no image here.",
            show_default="the images' or the classifier's own",
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
    check_unlabelled(unlabelled, classifier, epsilon, confidence=confidence, least_images=least_images)
    _check_kind(prompt_level, captions, learn, kit, model)
    if clip is not None and prompt_level == "class" and not (learn or route):  # those refuse it in their own words
        raise UsageError("--clip bounds captions, and class-level prompts have none", "add --prompt-level instance")
    _check_steps(learn, (learn_steps, vectors), route, route_steps)
    if route:
        _check_routing(learn, kit, prompt_level, send, template, clip)
    from fglfast.base.writable import usable_file
    from fglfast.client.captions import ATTRIBUTES
    from fglfast.client.embed import embed as embed_dataset
    from fglfast.client.privacy import asked_budget
    from fglfast.generator.kit import check_kit
    from fglfast.generator.text import resolve_model, resolve_text
    from fglfast.payload import open_signer, save_payload

    usable_file(out, "payload")
    if epsilon is not None and classes is None:
        note("the list of classes is sent as it is; where the images make it, give the federation's with --classes")
    signer = open_signer(sign, federation)
    budget = asked_budget(epsilon=epsilon, delta=delta, clip=clip, uploads=uploads)
    if learn and budget:
        raise UsageError("--learn adds no noise", "leave out --epsilon, or --learn")
    if kit:
        check_kit(kit)
    find = resolve_model if learn or route else resolve_text
    folder, name = kit or find(model), client or out.stem
    dataset, counts, facts = open_images(data, classifier, classes, confidence, least_images)
    if learn:
        found = _learned(dataset, name, folder, out, learn_steps, vectors, send, template, domain)
        payload, facts = found.payload, facts | _losses(found, "learned_loss")
    elif route:
        found = _routed(dataset, name, folder, out, route, route_steps, domain, budget)
        payload, facts = found.payload, facts | _losses(found, "routed_loss")
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
    rows, images = many(len(payload.labels), "row"), many(int(payload.counts.sum()), "image")
    tell(result, as_json, f"{out}: {rows} from {'about ' if budget else ''}{images}, {size:,} bytes")


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


def _check_steps(learn: bool, learned: tuple[int, int], route: Path | None, route_steps: int) -> None:
    """Refuse what is said of a learning that is not asked for."""
    if learned != (LEARN.steps, LEARN.vectors) and not learn:
        raise UsageError("--learn-steps and --vectors are of learned embeddings", "give --learn too")
    if route_steps != RouteSettings().steps and route is None:
        raise UsageError("--route-steps is of routing", "give --route too")


def _learned(dataset: Any, name: str, model: Path, out: Path, steps: int, vectors: int, *others: Any) -> "Learned":
    """A payload of learned embeddings."""
    from fglfast.client.learn import learn

    settings = checked(LearnSettings, steps=steps, vectors=vectors)
    return learn(dataset, name, model, out.with_suffix(".learning"), settings, *others)


def _routed(dataset: Any, name: str, model: Path, out: Path, inventory: Path, steps: int, *others: Any) -> "Learned":
    """A payload of routing."""
    from fglfast.client.route import route

    settings = checked(RouteSettings, steps=steps)
    return route(dataset, name, model, inventory, out.with_suffix(".learning"), settings, *others)


def _losses(found: "Learned", learned: str) -> dict[str, float]:
    """The generator's losses before and after, the latter by its name, as far as they were measured."""
    losses = {"class_level_loss": found.class_level, learned: found.learned}
    return {name: loss for name, loss in losses.items() if loss is not None}


def _check_routing(
    learn: bool, kit: Path | None, prompt_level: str, send: str, template: str | None, clip: float | None
) -> None:
    """Refuse what does not go with --route."""
    others = {
        "--learn": learn,
        "--kit, which has no generator to learn through": kit,
        "--prompt-level instance": prompt_level != "class",
        f"--send {send}, as routing is sent": send != "embeddings",
        "--template, as the server words the prompts": template is not None,
        "--clip, as what an image adds to a step of learning has length 1": clip,
    }
    for words, given in others.items():
        if given:
            raise UsageError(f"--route does not go with {words}", f"leave out {words.split(',')[0]}, or --route")
