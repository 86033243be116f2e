"""Verbs of a server up to its images: engine and synthesis."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fglfast.base.config import MOST_SEED
from fglfast.base.console import note
from fglfast.base.errors import UsageError
from fglfast.base.wording import duration, many, size
from fglfast.pipeline.settings import PILOT_IMAGES
from fglfast.verbs.command import SERVER, tell, verb
from fglfast.verbs.documented import checked
from fglfast.verbs.opening import asked_recipe, judge_is_here, open_engine, open_judge
from fglfast.verbs.options import (
    DEFAULT_ENGINES,
    Allow,
    AllowSamePrompt,
    AsJson,
    BatchSize,
    Engines,
    InventoryFile,
    JudgeName,
    OtherBackend,
    OtherGuidance,
    OtherModel,
    OtherPrecision,
    OtherSize,
    OtherSteps,
    RandomWeights,
    RecipeName,
    TrustedCounts,
    check_merged,
    join_ranks,
    prove_payloads,
    read_payloads,
)
from fglfast.verbs.publishing import Private, PushToHub, pushed, repository
from fglfast.verbs.run_file import PrintConfig, changed_by_file, check_printed, print_settings, run_file
from fglfast.verbs.until import PilotImages, UntilGain, Validation, stop_rule


@verb(SERVER)
def build_engine(
    recipe: RecipeName = None,
    model: OtherModel = None,
    backend: OtherBackend = None,
    precision: OtherPrecision = None,
    image_size: OtherSize = None,
    batch_size: BatchSize = None,
    random_weights: RandomWeights = False,
    engines: Engines = DEFAULT_ENGINES,
    as_json: AsJson = False,
) -> None:
    """Compile a generator into an engine and check it against plain PyTorch in float32; a second call finds it."""
    asked = asked_recipe(recipe, model, backend, precision, image_size, batch_size)
    engine = open_engine(asked, engines, batch_size, random_weights)
    parity = engine.manifest.parity
    result = {
        "key": engine.key,
        "folder": str(engine.folder),
        "backend": engine.build.backend,
        "cached": engine.cached,
        "seconds": engine.manifest.seconds,
        "parity": parity.model_dump(mode="json"),
    }
    worst = max(parity.text_encoder, parity.unet, parity.vae_decoder)
    state = "found" if engine.cached else f"built in {engine.manifest.seconds:.0f} s"
    tell(result, as_json, f"{engine.folder}: {state}, relative error {worst:.1e}, PSNR {parity.psnr:.0f} dB")


@verb(SERVER)
def synthesize(
    embeddings: Annotated[
        str, typer.Option(help="Payload files of the clients: a quoted pattern such as 'clients/*.safetensors'.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the data set.")],
    images_per_class: Annotated[int, typer.Option(min=1, help="Synthetic images of each class.")] = 500,
    recipe: RecipeName = None,
    model: OtherModel = None,
    backend: OtherBackend = None,
    precision: OtherPrecision = None,
    image_size: OtherSize = None,
    steps: OtherSteps = None,
    guidance: OtherGuidance = None,
    batch_size: BatchSize = None,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, help="Seed of the plan: it decides every image's noise.")
    ] = 0,
    shard_size: Annotated[int, typer.Option(min=1, help="Images of one tar shard.")] = 512,
    image_format: Annotated[Literal["png", "webp"], typer.Option(help="Encoding of the images in the shards.")] = "png",
    format: Annotated[
        Literal["shards", "imagefolder", "parquet"],
        typer.Option(help="Form of the data set; the others are made beside the shards, in a folder of their name."),
    ] = "shards",
    max_share_per_client: Annotated[
        float,
        typer.Option(
            min=0.001,
            max=1,
            help="Largest share of a class's images for one client's prompts, where several hold it; 1 cuts nothing, "
            "but a claim that would leave others next to nothing has to be named (--trusted-counts).",
        ),
    ] = 1.0,
    trusted_counts: TrustedCounts = None,
    inventory: InventoryFile = None,
    judge: JudgeName = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE|SCORE",
            help="Leave out of training what the judge scores lowest: keep 90% of each class, or scores from 0.5 on.",
        ),
    ] = None,
    allow: Allow = None,
    allow_same_prompt: AllowSamePrompt = False,
    push_to_hub: PushToHub = None,
    private: Private = False,
    until_gain: UntilGain = None,
    validation: Validation = None,
    pilot_images: PilotImages = PILOT_IMAGES,
    update: Annotated[
        bool,
        typer.Option(
            "--update", help="Make the data set that is there this one: clients joined, left or sent other payloads."
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Say how many images, bytes and seconds it would take; draw and compile nothing, fetch no weights but "
            "the text encoder's, for --inventory.",
        ),
    ] = False,
    engines: Engines = DEFAULT_ENGINES,
    config: Annotated[Path | None, run_file(more=("sampling",))] = None,
    print_config: PrintConfig = False,
    as_json: AsJson = False,
) -> None:
    """Draw a labelled synthetic data set from the clients' payloads; a second call goes on where it stopped.

    Under torchrun or srun each process draws shards that no other has claimed, on a GPU of its own. With --update, the
    images that stay are not drawn again, and the result is that of a fresh run.
    """
    if (rank := join_ranks()).number and dry_run:  # joined before PyTorch is imported
        return
    _check_asked(keep, judge, print_config, as_json)
    asked = asked_recipe(recipe, model, backend, precision, image_size, batch_size)
    merged = read_payloads(embeddings, allow, inventory, asked)
    check_merged(merged, allow_same_prompt, trusted_counts, max_share_per_client)
    from fglfast.engine.build import LazyEngine
    from fglfast.synthesis import synthesize as stage
    from fglfast.synthesis.foresight import foreseen
    from fglfast.synthesis.settings import SynthesisSettings

    rule = stop_rule(
        until_gain, validation, (images_per_class, pilot_images), update, rank.world_size, out, merged.class_names
    )

    def check(folder: Path, image_size: int) -> None:
        stage.check_work(merged, settings, out, folder, image_size, update or rule is not None)
        prove_payloads(embeddings, folder)

    drawing = LazyEngine(asked, engines, partial(open_engine, asked, engines, batch_size, check=check))
    fetched = (dry_run or print_config) and not judge_is_here(judge, asked.model)  # neither fetches one
    judging = open_judge(None if fetched else judge, merged.class_names, drawing)
    settings = checked(
        SynthesisSettings,
        images_per_class=images_per_class,
        seed=seed,
        shard_size=shard_size,
        image_format=image_format,
        sampling=changed_by_file(asked.sampling, "sampling").changed(steps, guidance),
        max_share_per_client=max_share_per_client,
        judge=judging and judging.fingerprint,
    )
    if print_config:
        words = {"recipe": recipe, "model": model, "backend": backend, "precision": precision, "format": format}
        stops = {"until_gain": until_gain, "validation": validation, "pilot_images": pilot_images if rule else None}
        more = {"image_size": image_size, "batch_size": batch_size, "allow_same_prompt": allow_same_prompt, **stops}
        of_clients = {
            "trusted_counts": trusted_counts or None,
            "inventory": inventory and str(inventory),
            "allow": allow and str(allow),
        }
        plain = settings.model_copy(update={"judge": None})
        print_settings(plain, **words, **more, **of_clients, judge=judge, keep=keep)
        return
    if dry_run:
        planned = foreseen(
            asked, merged, settings, out, engines, rank.world_size, update or rule is not None, format != "shards"
        )
        if planned["plan"]:  # the model's weights are here
            prove_payloads(embeddings, asked.model_folder())
        stage.note_room(planned["bytes_at_most"], planned["bytes_free"], out)
        return tell(planned, as_json, _planned(planned, judge))

    hub = repository(push_to_hub, private, "dataset") if not rank.number else None
    stopping = None
    if rule:
        done, stopping = rule(drawing.engine, merged, settings, out=out, judge=judging)
    else:
        done = stage.synthesize(drawing.engine, merged, settings, out, rank.number, rank.world_size, update, judging)
    _finish(out, merged.class_names, done, keep, format)
    pushed(None if done.missing else hub, out, ("imagefolder/*", "parquet/*"))
    result, line = _drawn(out, drawing.engine.key, done, rank, stopping)
    tell(result, as_json, line)


def _drawn(out: Path, engine: str, done: Any, rank: Any, stopping: Any) -> tuple[dict[str, Any], str]:
    """What was drawn, as JSON and in words."""
    rate = done.images / done.seconds if done.seconds else 0.0
    result = {
        "folder": str(out),
        "images": done.images,
        "found": done.found,
        "seconds": round(done.seconds, 3),
        "images_per_second": round(rate, 2),
        "network_share": round(done.network_share, 4),
        "bytes": done.bytes,
        "engine": engine,
        "rank": rank.number,
        "world_size": rank.world_size,
        "missing_shards": done.missing,
        "redrawn": done.redrawn,
        **({"stopping": stopping.model_dump(mode="json")} if stopping else {}),
    }
    line = (
        f"{out}: {many(done.images, 'image')} in {done.seconds:.1f} s ({rate:.1f} images/s), {done.network_share:.0%} "
        "of it in UNet and VAE"
        if done.images
        else f"{out}: all {done.found} images were already there"
    )
    again = f"; {done.redrawn} came out blank and were redrawn" if done.redrawn else ""
    left = f"; not there: {done.missing} of {many(done.shards, 'shard')}"
    whole = "; the data set is complete" if rank.world_size > 1 else ""
    return result, line + again + (left if done.missing else whole)


def _planned(planned: dict[str, Any], judge: str | None) -> str:
    """What a dry run found, a line each."""
    seconds = planned["seconds"]
    time = "not known until the engine is built" if seconds is None else f"about {duration(seconds)}"
    time += ", the judge's not counted" if judge else ""
    lines = {
        "plan": planned["plan"] or "not known until the model's weights are here",
        "classes": f"{planned['classes']:,}",
        "images": f"{planned['images']:,}, {planned['images_left']:,} of them to be drawn",
        "shards": f"{planned['shards']:,}",
        "disk": f"{size(planned['bytes_at_most'])} at most, {size(planned['bytes_free'])} are free",
        "time": f"{time}; {planned['passes']:,} passes through the UNet",
        **({"update": planned["change"]["words"]} if planned["change"] else {}),
    }
    return "\n".join(f"{name}: {words}" for name, words in lines.items())


def _check_asked(keep: str | None, judge: str | None, print_config: bool, as_json: bool) -> None:
    from fglfast.shards.keep import Keep

    check_printed(print_config, as_json)
    if keep is not None:
        Keep.parse(keep)
        if judge is None:
            raise UsageError("--keep goes by scores, and nothing gives any", "give --judge too")


def _finish(out: Path, class_names: tuple[str, ...], done: Any, keep: str | None, form: str) -> None:
    """What is made of a complete data set; of several ranks, the one that finishes last does it."""
    if done.missing:
        if form != "shards":
            note(f"no {form} yet, as shards are missing: the rank that finishes last makes it, or run this again")
        return
    if keep is not None:
        _leave_out(out, keep, form)
    if form != "shards":
        from fglfast.shards.imagefolder import export_imagefolder
        from fglfast.shards.parquet_export import export_parquet

        export = export_imagefolder if form == "imagefolder" else export_parquet
        made = export(out, class_names, done.shards)
        note(f"{form}: {made}" if made else f"another rank is making the {form}")


def _leave_out(out: Path, keep: str, form: str) -> None:
    from fglfast.shards.description import read_description
    from fglfast.shards.keep import LEFT_OUT, leave_out

    description = read_description(out)
    left = len(leave_out(out, description, keep))
    note(f"{left:,} of {description.images:,} images are left out of training: {out / LEFT_OUT} lists them")
    if left and form != "shards":
        note(f"the {form} holds those too, unmarked: who trains on it leaves them out by that list")
