"""Verbs of a client: what it uploads, its key, and what the generator makes of its domain."""

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fglfast.base.console import MOST_ROWS, emit_json, print_table, stdout
from fglfast.base.errors import UsageError
from fglfast.base.wording import some
from fglfast.verbs.options import (
    Allow,
    AsJson,
    BackendOption,
    ModelName,
    RecipeName,
    fleeting_verb,
    open_engine,
    read_allowed,
    read_recipe,
    tell,
    verb,
)

if TYPE_CHECKING:
    from fglfast.lab.probe.verdict import Findings, Share


LEARN_STEPS, VECTORS = 500, 15  # those of fglfast.client.learn, which is too heavy to be imported for --help


@verb
def embed(
    data: Annotated[str, typer.Argument(help="Private images: PATH[:SPLIT] (class folders, parquet, datasets, npz).")],
    out: Annotated[Path, typer.Option(help="The payload file to write.")],
    model: ModelName = "mini",
    prompt_level: Annotated[
        Literal["class", "instance"], typer.Option(help="One prompt a class, or one an image.")
    ] = "class",
    captions: Annotated[
        str | None,
        typer.Option(
            help="attributes (measured words), a captioning model's hub id or folder, or your own file (JSON, CSV).",
            show_default="attributes",
        ),
    ] = None,
    domain: Annotated[
        str | None, typer.Option(help="A word for all images, such as sketch.", show_default=False)
    ] = None,
    send: Annotated[
        Literal["embeddings", "int8", "tokens"], typer.Option(help="Text embeddings, in eight bits, or token ids.")
    ] = "embeddings",
    client: Annotated[
        str | None, typer.Option(help="Client name; the file's stem unless given.", show_default=False)
    ] = None,
    template: Annotated[str | None, typer.Option(help="Prompt template with {label}.", show_default=False)] = None,
    sign: Annotated[
        Path | None, typer.Option(help="Sign with this private key; fglfast key makes one.", show_default=False)
    ] = None,
    federation: Annotated[
        str | None, typer.Option(help="Name of the federation that the signature is for.", show_default=False)
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(help="Add noise: no image costs more privacy than this, over --uploads.", show_default=False),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Chance that one does; below 1 / images.", show_default="1e-5")
    ] = None,
    clip: Annotated[
        float | None,
        typer.Option(help="Most that a caption changes an embedding, L2.", show_default="the measured words' spread"),
    ] = None,
    uploads: Annotated[
        int | None, typer.Option(help="Uploads of these images that share epsilon.", show_default="1")
    ] = None,
    learn: Annotated[
        bool, typer.Option("--learn", help="Fit the class prompts' embeddings to the images; goes on where it stopped.")
    ] = False,
    learn_steps: Annotated[int, typer.Option(min=1, help="Of --learn, for all classes together.")] = LEARN_STEPS,
    vectors: Annotated[int, typer.Option(min=1, help="Of each embedding that --learn fits.")] = VECTORS,
    as_json: AsJson = False,
) -> None:
    """Turn private images into prompt text embeddings: the one file a client uploads."""
    if captions is not None and prompt_level == "class":
        raise UsageError("class-level prompts have no captions", "add --prompt-level instance")
    if learn and prompt_level == "instance":
        raise UsageError("--learn makes one embedding a class", "leave out --prompt-level")
    from fglfast.base.files import usable_file
    from fglfast.client.captions import ATTRIBUTES
    from fglfast.client.embed import embed as embed_dataset
    from fglfast.client.privacy import asked_budget
    from fglfast.generator.text import resolve_model
    from fglfast.images.dataset import read_dataset
    from fglfast.payload import open_signer, save_payload

    usable_file(out)
    signer = open_signer(sign, federation)
    budget = asked_budget(epsilon=epsilon, delta=delta, clip=clip, uploads=uploads)
    if learn and budget:
        raise UsageError("--learn adds no noise", "leave out --epsilon, or --learn")
    dataset, folder, name = read_dataset(data), resolve_model(model), client or out.stem
    facts: dict[str, float] = {}
    if learn:
        from fglfast.client.learn import LearnSettings
        from fglfast.client.learn import learn as learn_from

        settings = LearnSettings(steps=learn_steps, vectors=vectors)
        learned = learn_from(dataset, name, folder, out.with_suffix(".learning"), settings, send, template, domain)
        payload, facts = learned.payload, {"class_level_loss": learned.class_level, "learned_loss": learned.learned}
    else:
        captions = captions or ATTRIBUTES
        payload = embed_dataset(dataset, name, folder, prompt_level, send, template, captions, domain, budget)
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


@fleeting_verb
def inspect(
    file: Annotated[Path, typer.Argument(help="A payload file.")],
    allow: Allow = None,
    as_json: AsJson = False,
) -> None:
    """Validate a payload and show what it holds."""
    import numpy as np
    from rich.table import Column, Table
    from rich.text import Text

    from fglfast.payload import load_signed, tensor_bytes
    from fglfast.payload.merge import merge_payloads, same_prompts, same_words

    payload, signature = load_signed(file, allowed=read_allowed(allow))
    size = file.stat().st_size if file.exists() else 0
    header = payload.header
    images = np.zeros(len(header.class_names), dtype=np.int64)
    np.add.at(images, payload.labels, payload.counts)
    together = same_prompts(merge_payloads([payload]))
    by_class = dict(zip(header.class_names, images.tolist(), strict=True))
    result = {
        "file": str(file),
        "bytes": size,
        "client": header.client,
        "format_version": header.format_version,
        "prompt_level": header.prompt_level,
        "domain": header.domain,
        "text_encoder": header.text_encoder,
        "privacy": header.privacy.model_dump() if header.privacy else None,
        "reveals": payload.reveals,
        "form": payload.form,
        "shape": list(payload.prompts().shape),
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


@fleeting_verb
def key(
    file: Annotated[Path, typer.Argument(help="The private key's file (PEM); made if it is not there.")],
    as_json: AsJson = False,
) -> None:
    """Make a client's private key, once, and print the public one: what a server puts on its list."""
    from fglfast.payload.keys import find_or_make_key

    public, made = find_or_make_key(file)
    origin = "a new private key: keep it to yourself" if made else "the private key that is there"
    tell({"file": str(file), "public_key": public, "made": made}, as_json, f"{file}: {origin}\npublic key: {public}")


@fleeting_verb
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
    from fglfast.images.dataset import read_dataset
    from fglfast.lab.probe.picture import write_picture
    from fglfast.lab.probe.probe import ProbeSettings
    from fglfast.lab.probe.probe import probe as run

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

    def percent(share: "Share | None") -> str:
        return f"{share.drawn:.0%} of {share.own:.0%}" if share else "–"

    table = Table(
        "class", "compared", "recognised", "covered", "drawn", title="by drawn images, of what own ones reach"
    )
    rows = []
    for found in sorted(findings.classes, key=lambda found: (found.score is None, found.score)):
        shares = percent(found.recognised), percent(found.covered)
        rows.append((found.name, f"{found.compared} of {found.images}", *shares, found.verdict))
    print_table(table, rows)
    stdout.print(findings.advice, markup=False, soft_wrap=True)
    if picture:
        stdout.print(f"{picture} shows private images: it is yours to keep or delete", markup=False, soft_wrap=True)
