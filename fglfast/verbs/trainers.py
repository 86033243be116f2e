"""Verbs that train a generator: a small one of your own, or a few-step student of one."""

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from fglfast.base.errors import UsageError
from fglfast.verbs.options import (
    DEFAULT_ENGINES,
    Allow,
    AsJson,
    Engines,
    RecipeName,
    open_engine,
    read_payloads,
    read_recipe,
    tell,
    verb,
)


@verb
def pretrain(
    data: Annotated[str, typer.Option(help="Public images: PATH[:SPLIT].")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, sample grids and the model.")],
    vae_steps: Annotated[int, typer.Option(min=1, help="Steps of the VAE, batch 32.")] = 12_000,
    flow_steps: Annotated[int, typer.Option(min=1, help="Steps of text encoder and UNet, batch 64.")] = 10_000,
    coupling: Annotated[
        Literal["independent", "ot", "sparse-ot", "w-cfm", "immiscible"],
        typer.Option(help="Which noise with which data."),
    ] = "independent",
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to train.")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Train a small text-to-image model of your own on public images; goes on where it was stopped."""
    os.environ.setdefault("DS_ACCELERATOR", device)  # diffusers imports DeepSpeed, which else warns that it guesses
    from fglfast.base.files import sole
    from fglfast.generator.learning.pretrain import PretrainSettings
    from fglfast.generator.learning.pretrain import pretrain as run
    from fglfast.images.dataset import read_dataset

    settings = PretrainSettings.budget(vae_steps, flow_steps, coupling, device)
    with sole(out):
        model = run(read_dataset(data), out, settings)
    tell({"model": str(model)}, as_json, f"model: {model}")


@verb
def distill(
    embeddings: Annotated[str, typer.Option(help="Payload files whose prompts the student is made for.")],
    out: Annotated[Path, typer.Option(help="Folder for pairs, checkpoints, the student's model and its recipe.")],
    recipe: RecipeName = "mini",
    teacher: Annotated[str | None, typer.Option(help="Overrides the recipe's model.", show_default=False)] = None,
    method: Annotated[
        Literal["reflow", "rectified-diffusion", "mdt"],
        typer.Option(help="reflow or, for 1-2 steps, mdt: flow models. rectified-diffusion: noise, data or v models."),
    ] = "reflow",
    steps: Annotated[int, typer.Option(min=1, help="Of the student.")] = 4,
    blocks: Annotated[int, typer.Option(min=1, help="Networks that share the steps between them.")] = 1,
    channels: Annotated[
        str | None,
        typer.Option(help="Widths of the student's networks, say 96,128; they begin anew.", show_default=False),
    ] = None,
    teacher_steps: Annotated[
        int | None, typer.Option(min=1, help="Overrides the recipe's steps.", show_default=False)
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(min=0, help="Folded into the student; the recipe's.", show_default=False)
    ] = None,
    pairs_per_class: Annotated[int, typer.Option(min=1, help="Drawn by the teacher.")] = 2000,
    fit_steps: Annotated[int, typer.Option(min=1, help="Steps of the student's training, batch 64.")] = 4000,
    allow: Allow = None,
    engines: Engines = DEFAULT_ENGINES,
    as_json: AsJson = False,
) -> None:
    """Make a few-step student of a generator: its engine draws pairs, a UNet learns from them; resumes."""
    from fglfast.base.files import sole
    from fglfast.distill.distill import FIT, DistillSettings, check_work
    from fglfast.distill.distill import distill as run

    asked = read_recipe(recipe)
    settings = DistillSettings(
        method=method,
        steps=steps,
        blocks=blocks,
        channels=_whole_numbers("--channels", channels) if channels else None,
        teacher=asked.sampling.changed(teacher_steps, guidance),
        pairs_per_class=pairs_per_class,
        fit=FIT.model_copy(update={"steps": fit_steps}),
    )
    merged = read_payloads(embeddings, allow)
    with sole(out):
        engine = open_engine(recipe, teacher, None, engines, check=partial(check_work, settings, merged, out))
        written, found = run(engine, merged, asked, settings, out)
    cost = f"pairs {found.cost.pairs:.0f} s, " if found.cost.pairs is not None else ""
    cost += f"training {found.cost.training:.0f} s"
    bends = f"; teacher: {found.before}; student: {found.after}" if found.before else ""
    result = {"recipe": str(written), "model": str(out / "model"), **found.model_dump(mode="json")}
    tell(result, as_json, f"{written}: {steps} steps, {found.pairs} pairs; {cost}{bends}")


def _whole_numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise UsageError(f"{option}: {text!r} is no list of whole numbers", "give, say, 96,128") from None
