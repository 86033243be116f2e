"""Verbs of one stage each, from private images to a tested global model."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fglfast.base.console import emit_json, note, print_table, stdout
from fglfast.base.wording import duration, size
from fglfast.verbs.options import (
    DEFAULT_ENGINES,
    Allow,
    AllowSamePrompt,
    AsJson,
    BackendOption,
    BatchSize,
    Engines,
    RandomWeights,
    RecipeName,
    fleeting_verb,
    join_ranks,
    open_engine,
    read_payloads,
    read_recipe,
    tell,
    verb,
)


@verb
def build_engine(
    recipe: RecipeName = "mini",
    model: Annotated[str | None, typer.Option(help="Overrides the recipe's model.", show_default=False)] = None,
    backend: BackendOption = None,
    batch_size: BatchSize = None,
    random_weights: RandomWeights = False,
    engines: Engines = DEFAULT_ENGINES,
    as_json: AsJson = False,
) -> None:
    """Compile a generator and prove it equal to float32 eager; a second call finds it."""
    engine = open_engine(recipe, model, backend, engines, batch_size, random_weights)
    parity = engine.manifest.parity
    result = {
        "key": engine.key,
        "folder": str(engine.folder),
        "backend": engine.manifest.key.build.backend,
        "cached": engine.cached,
        "seconds": engine.manifest.seconds,
        "parity": parity.model_dump(mode="json"),
    }
    worst = max(parity.text_encoder, parity.unet, parity.vae_decoder)
    state = "found" if engine.cached else f"built in {engine.manifest.seconds:.0f} s"
    tell(result, as_json, f"{engine.folder}: {state}, relative error {worst:.1e}, PSNR {parity.psnr:.0f} dB")


@verb
def synthesize(
    embeddings: Annotated[str, typer.Option(help="Payload files; a quoted pattern such as 'clients/*.safetensors'.")],
    out: Annotated[Path, typer.Option(help="Folder of the data set.")],
    images_per_class: Annotated[int, typer.Option(min=1, help="Images of each class.")] = 500,
    recipe: RecipeName = "mini",
    model: Annotated[str | None, typer.Option(help="Overrides the recipe's model.", show_default=False)] = None,
    backend: BackendOption = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Overrides the recipe's steps.", show_default=False)] = None,
    guidance: Annotated[
        float | None, typer.Option(min=0, help="Overrides the recipe's guidance scale.", show_default=False)
    ] = None,
    batch_size: BatchSize = None,
    seed: Annotated[int, typer.Option(min=0, help="Plan seed.")] = 0,
    shard_size: Annotated[int, typer.Option(min=1, help="Images a tar shard.")] = 512,
    image_format: Annotated[Literal["png", "webp"], typer.Option(help="Encoding of the images.")] = "png",
    format: Annotated[
        Literal["shards", "imagefolder"], typer.Option(help="imagefolder unpacks the shards too.")
    ] = "shards",
    max_share_per_client: Annotated[
        float,
        typer.Option(min=0.001, max=1, help="Of a class's images, where several clients hold it; 1 cuts nothing."),
    ] = 1.0,
    allow: Allow = None,
    allow_same_prompt: AllowSamePrompt = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print plan, bytes and time, and stop.")] = False,
    engines: Engines = DEFAULT_ENGINES,
    as_json: AsJson = False,
) -> None:
    """Draw a labelled synthetic data set from the clients' payloads; goes on where it was stopped.

    Under torchrun or srun each process draws its share of the shards, on a GPU of its own.
    """
    rank = join_ranks()  # before PyTorch is imported
    if dry_run and rank.number:
        return
    from fglfast.payload.merge import check_prompts
    from fglfast.synthesis import synthesize as stage
    from fglfast.synthesis.settings import SynthesisSettings

    merged = read_payloads(embeddings, allow)
    check_prompts(merged, allow_same_prompt, "--allow-same-prompt")
    settings = SynthesisSettings(
        images_per_class=images_per_class,
        seed=seed,
        shard_size=shard_size,
        image_format=image_format,
        sampling=read_recipe(recipe).sampling.changed(steps, guidance),
        max_share_per_client=max_share_per_client,
    )
    check = partial(stage.check_work, merged, settings, out)
    engine = open_engine(recipe, model, backend, engines, batch_size, check=check)
    if dry_run:
        planned = stage.estimate(engine, merged, settings, out, rank.world_size)
        stage.note_room(planned["bytes_at_most"], planned["bytes_free"], out)
        tell(planned, as_json, _planned(planned))
        return
    done = stage.synthesize(engine, merged, settings, out, rank.number, rank.world_size)
    if format == "imagefolder":
        _unpack(out, merged.class_names, done)
    rate = done.images / done.seconds if done.seconds else 0.0
    result = {
        "folder": str(out),
        "images": done.images,
        "found": done.found,
        "seconds": round(done.seconds, 3),
        "images_per_second": round(rate, 2),
        "network_share": round(done.network_share, 4),
        "bytes": done.bytes,
        "engine": engine.key,
        "rank": rank.number,
        "world_size": rank.world_size,
        "missing_shards": done.missing,
        "redrawn": done.redrawn,
    }
    pace = f"{done.seconds:.1f} s ({rate:.1f} images/s), {done.network_share:.0%} of it in UNet and VAE"
    line = (
        f"{out}: {done.images} images in {pace}"
        if done.images
        else f"{out}: all {done.found} images were there already"
    )
    again = f"; {done.redrawn} came out blank and were drawn again" if done.redrawn else ""
    left = f"; {done.missing} of {done.shards} shards, other ranks' share, are not there yet"
    whole = "; the data set is complete" if rank.world_size > 1 else ""
    tell(result, as_json, line + again + (left if done.missing else whole))


def _planned(planned: dict[str, Any]) -> str:
    """What a dry run found, a line each."""
    lines = {
        "plan": planned["plan"],
        "classes": f"{planned['classes']:,}",
        "images": f"{planned['images']:,}, {planned['images_left']:,} of them to be drawn",
        "shards": f"{planned['shards']:,}",
        "disk": f"{size(planned['bytes_at_most'])} at most, {size(planned['bytes_free'])} are free",
        "time": f"about {duration(planned['seconds'])}",
    }
    return "\n".join(f"{name}: {words}" for name, words in lines.items())


def _unpack(out: Path, class_names: tuple[str, ...], done: Any) -> None:
    """Unpack a complete data set; of several ranks, the one that finishes last."""
    from fglfast.shards.imagefolder import export_imagefolder

    if done.missing:
        note("not unpacked: shards are missing; the rank that finishes last unpacks, or run again")
        return
    made = export_imagefolder(out, class_names, done.shards)
    note(f"unpacked to {made.folder}" if made else "another rank unpacks")
    if made and made.renamed:
        note(f"classes whose name no folder can have: {made.renamed}; labels.json there says which folder is whose")


@verb
def train(
    data: Annotated[Path, typer.Argument(help="Folder made by synthesize.")],
    out: Annotated[Path, typer.Option(help="Folder of the global model.")],
    arch: Annotated[
        str, typer.Option(help="resnet18, its kin (resnet10-tiny to resnet50), or a JSON config.")
    ] = "resnet18",
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    batch_size: Annotated[
        int | None, typer.Option(min=2, help="Images a step, over all processes.", show_default=False)
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.", show_default=False)] = None,
    image_size: Annotated[int | None, typer.Option(help="Resize images.", show_default=False)] = None,
    processes: Annotated[int, typer.Option(min=0, help="Processes; 0 takes one a GPU, or one.")] = 0,
    deepspeed: Annotated[Path | None, typer.Option(help="Your DeepSpeed JSON.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Train the global model on synthetic images with DeepSpeed; goes on where it was stopped."""
    from fglfast.training.launch import train as launch
    from fglfast.training.settings import TrainSettings

    asked: dict[str, Any] = {
        "arch": arch,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "image_size": image_size,
        "deepspeed": deepspeed,
        "seed": seed,
    }
    settings = TrainSettings(**{key: value for key, value in asked.items() if value is not None})
    result = launch(data, out, settings, processes or "auto")
    accuracy = "" if result.val_accuracy is None else f", {result.val_accuracy:.1%} on held-out synthetic images"
    line = f"{result.model}: {result.epochs} epochs of {result.images} images in {result.seconds:.0f} s{accuracy}"
    tell(result.model_dump(mode="json"), as_json, line)


@fleeting_verb
def evaluate(
    model: Annotated[Path, typer.Argument(help="Folder of a global model.")],
    data: Annotated[str, typer.Argument(help="Real test images: PATH[:SPLIT].")],
    as_json: AsJson = False,
) -> None:
    """Test the global model on real images: accuracy, per class, confusion, calibration."""
    from rich.table import Table

    from fglfast.images.dataset import read_dataset
    from fglfast.training.evaluate import evaluate as run

    found = run(model, read_dataset(data))
    if as_json:
        emit_json(found.model_dump(mode="json"))
        return
    worst = sorted(found.per_class.items(), key=lambda named: (named[1].accuracy is None, named[1].accuracy))
    rows = [(name, "–" if of.accuracy is None else f"{of.accuracy:.1%}", f"{of.n:,}") for name, of in worst]
    print_table(Table("class", "accuracy", "images", title="least accurate first"), rows)
    stdout.print(f"accuracy {found.accuracy:.2%} on {found.n:,} images, expected calibration error {found.ece:.3f}")
