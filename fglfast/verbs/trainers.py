"""Verbs that make generators: a small one of your own, a student of one, a recipe with placed steps."""

import os
from pathlib import Path
from shlex import quote
from typing import Annotated, Literal

import typer

from fglfast.base.config import MOST_SEED
from fglfast.base.errors import UsageError
from fglfast.base.wording import many
from fglfast.verbs.command import GENERATORS, renamed, tell, verb
from fglfast.verbs.documented import checked
from fglfast.verbs.opening import asked_recipe, open_engine
from fglfast.verbs.options import (
    DEFAULT_ENGINES,
    Allow,
    AsJson,
    Engines,
    ModelName,
    OtherGuidance,
    OtherModel,
    OtherPrecision,
    OtherSize,
    RecipeName,
    read_payloads,
)
from fglfast.verbs.publishing import Private, PushToHub, pushed, repository


@verb(GENERATORS)
def pretrain(
    data: Annotated[str, typer.Option(help="Public images with class names: PATH[:SPLIT].")],
    out: Annotated[Path, typer.Option(help="Folder of checkpoints, sample grids and the model.")],
    size: Annotated[
        Literal["tiny", "small", "base"],
        typer.Option(
            help="Size of the networks: 8, 17 or 51 million weights. At 32 pixels the default steps take some 165, 350 "
            "or 610 minutes on two cores, at 64 four times that; on an H100 the smallest some 25."
        ),
    ] = "tiny",
    image_size: Annotated[
        Literal["32", "48", "64", "96", "128"], typer.Option(help="Side in pixels of the images that it draws.")
    ] = "32",
    captions: Annotated[
        str,
        typer.Option(help="Captions that it learns beside class names, as for embed: attributes, a model or a file."),
    ] = "attributes",
    without_classes: Annotated[
        bool,
        typer.Option(
            "--without-classes",
            help="Learn the captions alone, as they are: no prompt says a class, nor may clients' own.",
        ),
    ] = False,
    vae_steps: Annotated[int, typer.Option(min=1, help="Training steps of the VAE, at a batch of 32.")] = 12_000,
    flow_steps: Annotated[
        int,
        typer.Option(
            min=1,
            help="Training steps of text encoder and UNet at most, at a batch of 64: they end early when the loss on "
            "held-out images no longer falls.",
        ),
    ] = 10_000,
    label_flow: Annotated[
        int,
        typer.Option(
            min=0,
            help="Training steps, at a batch of 64, of a small network beside the generator that tells the classes of "
            "images, for synthesize --judge label-flow; 2000 is usual, 0 makes none.",
        ),
    ] = 0,
    coupling: Annotated[
        Literal["independent", "ot", "sparse-ot", "w-cfm", "immiscible"],
        typer.Option(help="How noise is paired with images in flow matching."),
    ] = "independent",
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of weights and draws.")] = 0,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Device to train on: auto is a GPU where there is one.")
    ] = "auto",
    push_to_hub: PushToHub = None,
    private: Private = False,
    as_json: AsJson = False,
) -> None:
    """Train a small text-to-image model of your own on public images; a second call goes on where it stopped."""
    from fglfast.images.dataset import read_dataset

    side, public = int(image_size), read_dataset(data)
    import torch

    # diffusers imports DeepSpeed, which else warns that it guesses.
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    from fglfast.base.files import sole
    from fglfast.client.captions import ATTRIBUTES, caption_all, find_captioner
    from fglfast.generator.architecture import MiniSettings
    from fglfast.generator.learning.pretrain import RUN, PretrainSettings
    from fglfast.generator.learning.pretrain import pretrain as run

    settings = PretrainSettings.budget(
        MiniSettings.of(size, side), vae_steps, flow_steps, label_flow, coupling, seed, device
    )
    settings = settings.model_copy(update={"classes": not without_classes})
    hub = repository(push_to_hub, private, "model")
    with sole(out, RUN):
        told = None if captions == ATTRIBUTES else caption_all(public, find_captioner(captions, side))
        model = run(public, out, settings, told)
    pushed(hub, model)
    described = f" --prompt-level instance --captions {'FILE' if captions == ATTRIBUTES else captions}"
    probe = f"fglfast probe IMAGES --model {quote(str(model))}{described if without_classes else ''}"
    line = f"model: {model}\nhow well it draws images like a client's own, the client finds out with: {probe}"
    tell({"model": str(model), "probe": probe}, as_json, line)


@verb(GENERATORS)
def inventory(
    data: Annotated[str, typer.Argument(help="Public images with class names: PATH[:SPLIT].")],
    out: Annotated[Path, typer.Option(help="File of the adapters to write (.safetensors), for server and clients.")],
    model: ModelName = "mini",
    adapters: Annotated[int, typer.Option(min=2, help="How many adapters are learned.")] = 12,
    heads: Annotated[int, typer.Option(min=1, help="Blocks of an embedding's channels that are mixed apart.")] = 4,
    rank: Annotated[int, typer.Option(min=1, help="Rank of each adapter.")] = 4,
    images: Annotated[
        int, typer.Option(min=1, help="Images of each class that are shown under each transformation.")
    ] = 50,
    steps: Annotated[int, typer.Option(min=1, help="Training steps, at a batch of 20.")] = 2000,
    transformations: Annotated[
        str | None,
        typer.Option(
            help="Names of the transformations that the images are shown under, with commas.", show_default="all"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Learn adapters of a generator's prompts from transformed public images, for embed --route; a second call goes on.

    Clients then send which mixture of them fits their images: under 1 kB, where learned embeddings are tens of them.
    """
    from fglfast.base.writable import usable_file
    from fglfast.generator.text import resolve_model
    from fglfast.images.dataset import read_dataset

    usable_file(out, "inventory")
    public, folder = read_dataset(data), resolve_model(model)
    from fglfast.generator.inventory import save_inventory
    from fglfast.generator.learning.make_inventory import InventorySettings, make_inventory

    asked = {"adapters": adapters, "heads": heads, "rank": rank, "images": images, "steps": steps}
    named = {"transformations": tuple(transformations.split(","))} if transformations else {}
    settings = checked(InventorySettings, **asked, **named)
    made = make_inventory(public, folder, out.with_suffix(".learning"), settings)
    size = save_inventory(made, out)
    result = {"file": str(out), "bytes": size, "fingerprint": made.fingerprint(), "adapters": adapters, "heads": heads}
    tell(
        result,
        as_json,
        f"{out}: {adapters} adapters, {size:,} bytes; give clients a copy, for embed --route {quote(str(out))}",
    )


@verb(GENERATORS)
def distill(
    embeddings: Annotated[
        str, typer.Option(help="Payload files whose prompts the student is made for; a quoted pattern.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of pairs, checkpoints, the student's model and its recipe.")],
    recipe: RecipeName = None,
    teacher: OtherModel = None,
    precision: OtherPrecision = None,
    image_size: OtherSize = None,
    method: Annotated[
        Literal["reflow", "rectified-diffusion", "mdt"],
        typer.Option(
            help="How the student learns: reflow (flow models), mdt (flow models in 1 or 2 steps), rectified-diffusion "
            "(models that predict noise, data or v)."
        ),
    ] = "reflow",
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps of the student.")] = 4,
    blocks: Annotated[
        int, typer.Option(min=1, help="Networks of the student, which share the steps between them.")
    ] = 1,
    channels: Annotated[
        str | None,
        typer.Option(help="Widths of the student's networks, such as 96,128; they then start from random weights."),
    ] = None,
    guidance: OtherGuidance = None,
    pairs_per_class: Annotated[
        int, typer.Option(min=1, help="Noise and image pairs that the teacher draws of each class.")
    ] = 2000,
    fit_steps: Annotated[int, typer.Option(min=1, help="Training steps of the student, at a batch of 64.")] = 4000,
    push_to_hub: PushToHub = None,
    private: Private = False,
    allow: Allow = None,
    engines: Engines = DEFAULT_ENGINES,
    as_json: AsJson = False,
) -> None:
    """Train a student that draws in a few steps what its teacher draws in many; a second call goes on.

    The teacher's engine draws pairs of noise and image, and the student's UNet learns from them.
    """
    asked = asked_recipe(recipe, teacher, precision=precision, image_size=image_size)
    merged = read_payloads(embeddings, allow)
    from fglfast.base.files import sole
    from fglfast.distill.distill import FACTS, FIT, DistillSettings, check_work
    from fglfast.distill.distill import distill as run

    settings = checked(
        DistillSettings,
        method=method,
        steps=steps,
        blocks=blocks,
        channels=_whole_numbers("--channels", channels) if channels else None,
        teacher=asked.sampling.changed(guidance_scale=guidance),
        pairs_per_class=pairs_per_class,
        fit=FIT.model_copy(update={"steps": fit_steps}),
    )
    hub = repository(push_to_hub, private, "model")
    with sole(out, FACTS):
        engine = open_engine(asked, engines, check=lambda model, _: check_work(settings, merged, out, model))
        written, found = run(engine, merged, asked, settings, out)
    pushed(hub, out / "model")
    cost = f"pairs {found.cost.pairs:.0f} s, " if found.cost.pairs is not None else ""
    cost += f"training {found.cost.training:.0f} s"
    bends = "".join(f"; {who}: {bend}" for who, bend in (("teacher", found.before), ("student", found.after)) if bend)
    result = {"recipe": str(written), "model": str(out / "model"), **found.model_dump(mode="json")}
    tell(result, as_json, f"{written}: {many(steps, 'step')}, {many(found.pairs, 'pair')}; {cost}{bends}")


@verb(GENERATORS)
def place_steps(
    embeddings: Annotated[
        str, typer.Option(help="Payload files whose prompts the trajectories follow; a quoted pattern.")
    ],
    out: Annotated[Path, typer.Option(help="File of the recipe to write (.toml).")],
    recipe: RecipeName = None,
    model: OtherModel = None,
    precision: OtherPrecision = None,
    image_size: OtherSize = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps to place.")] = 4,
    grid: Annotated[int, typer.Option(min=2, help="Equal steps of each fine trajectory that they are placed on.")] = 60,
    trajectories: Annotated[int, typer.Option(min=1, help="How many fine trajectories are drawn.")] = 64,
    allow: Allow = None,
    engines: Engines = DEFAULT_ENGINES,
    as_json: AsJson = False,
) -> None:
    """Place a flow model's sampling steps where its trajectories bend (BOSS), and write them into a recipe."""
    from fglfast.base.files import write_atomic
    from fglfast.base.writable import usable_file

    usable_file(out, "recipe of fglfast")
    merged = read_payloads(embeddings, allow)
    asked = asked_recipe(recipe, model, precision=precision, image_size=image_size)
    from fglfast.distill.steps import place
    from fglfast.sampler.schedule import Sampling, Schedule
    from fglfast.synthesis.conditioning import check_fit

    def check(folder: Path, image_size: int) -> None:
        check_fit(merged, folder)
        Schedule.of_model(folder, Sampling(scheduler="flow-euler", steps=steps))

    placed = place(open_engine(asked, engines, check=check), merged, asked, steps, grid, trajectories)
    changes = {"scheduler": "flow-euler", "steps": steps, "timesteps": placed.timesteps}
    changed = asked.model_copy(update={"sampling": asked.sampling.model_copy(update=changes)})
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, f"# Written by fglfast place-steps.\n{changed.to_toml()}")
    result = {"recipe": str(out), **placed.model_dump(mode="json")}
    shown = ", ".join(f"{timestep:g}" for timestep in placed.timesteps)
    tell(result, as_json, f"{out}: steps at {shown}; cost {placed.cost:.3g}, equal steps {placed.uniform_cost:.3g}")


renamed("tune-steps", place_steps)


def _whole_numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise UsageError(f"{option}: {text!r} is not a list of whole numbers", "for example 96,128") from None
