"""Teacher to student: draw pairs, train on them, save a folder that synthesizes in few unguided steps."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from fglfast.base.config import Settings
from fglfast.base.console import Progress, note
from fglfast.base.errors import UsageError
from fglfast.base.files import check_claim, claim, finished_folder, write_atomic
from fglfast.distill.pairs import draw_pairs, read_pairs
from fglfast.engine.build import Engine
from fglfast.engine.recipe import Recipe
from fglfast.generator.blocks import Blocks, load_blocks, segment
from fglfast.generator.kinds import INDEX
from fglfast.generator.learning.fitting import FitSettings
from fglfast.generator.learning.solvers import Bend, bend, uniform
from fglfast.generator.learning.student import Method, Pairs, Task, check_method, fit_student
from fglfast.generator.learning.transport import fit_transport, networks_asked
from fglfast.generator.load import own_device, read_network
from fglfast.generator.parts import BLOCK, BLOCKS, name_of, part, places
from fglfast.payload.merge import Merged, by_client
from fglfast.sampler.schedule import EVERYWHERE, Sampling, Schedule
from fglfast.sampler.step_noise import draws
from fglfast.synthesis.conditioning import check_fit, negative_text

FIT = FitSettings(steps=4000, batch_size=64, learning_rate=5e-4, ema_decay=0.998, warmup_steps=100)
COPIED = (".json", ".txt", ".safetensors")  # of the teacher's files
FACTS, WHAT = "distill.json", "a student of another teacher, other payloads or other settings"
JUDGED, FINE = 64, 50  # trajectories whose bend is measured, and steps of the teacher's


class DistillSettings(Settings):
    """How a student is made.

    Attributes:
        method: reflow for flow models, mdt for one or two steps of them; rectified-diffusion for models that predict
            noise, data or v.
        steps: of the student; reflow and rectified diffusion train it at their times only.
        blocks: networks that share the steps between them (blockwise flow matching, arXiv 2510.21167).
        channels: of the student's networks by resolution, which then begin anew; None for the teacher's own weights.
        teacher: how the teacher samples; its guidance is what the student learns to do without.
        pairs_per_class: drawn by the teacher.
        fit: of each network.
        seed: of the pairs' noises.
    """

    method: Method = "reflow"
    steps: int = 4
    blocks: int = 1
    channels: tuple[int, ...] | None = None
    teacher: Sampling
    pairs_per_class: int = 2000
    fit: FitSettings = FIT
    seed: int = 2**32

    @property
    def networks_asked(self) -> int:
        """How often training asks a network of a batch: once a step, but by mdt several times."""
        if self.method == "mdt":
            return networks_asked(self.fit.steps, self.teacher.guidance_scale)
        return self.blocks * self.fit.steps


class Cost(Settings):
    """Seconds that a student took, of all calls together.

    Attributes:
        pairs: to draw them; None if it was not kept.
        training: of all its networks.
    """

    pairs: float | None
    training: float


class Distilled(Settings):
    """What came out, `student.json` in the model's folder.

    Attributes:
        settings: as asked.
        teacher: key of its engine.
        pairs: it was trained on.
        cost: of making it, without its teacher's engine.
        before: how the teacher's unguided trajectories bend, in many steps; None if it predicts no velocity.
        after: how the student's do, in its own.
    """

    settings: DistillSettings
    teacher: str
    pairs: int
    cost: Cost
    before: Bend | None
    after: Bend | None


def distill(
    engine: Engine, merged: Merged, recipe: Recipe, settings: DistillSettings, out: Path
) -> tuple[Path, Distilled]:
    """Make `out/model`, a diffusers folder, and a recipe that draws with it; killed, it goes on where it was.

    Engine and recipe are the teacher's; the student is made for the prompts of the merged rows.

    Returns:
        The recipe's path, and what was made.

    Raises:
        UsageError: the method does not fit the teacher, or it is SDXL.
        BadInputError: `out` was begun with another teacher or other settings.
    """
    check_work(settings, merged, out, engine.model)
    task, teacher = Task.of_model(engine.model), _unet(part(engine.model, "unet"))
    claim(out / FACTS, _facts(settings, merged) | {"engine": engine.key}, WHAT)
    drawn = draw_pairs(engine, merged, settings.pairs_per_class, settings.seed, settings.teacher, out / "pairs")
    note(f"reading {drawn.plan.images:,} pairs")
    pairs = read_pairs(drawn, merged, engine.shapes.latent)
    times = _times(engine.model, task, settings.steps)
    blocks = _share(times, settings.blocks)
    unets = [_student(part(engine.model, "unet"), settings.channels) for _ in range(settings.blocks)]
    training = 0.0
    for number, (unet, own) in enumerate(zip(unets, np.array_split(times, settings.blocks), strict=True)):
        state = out / "state" / str(number)
        state.mkdir(parents=True, exist_ok=True)
        if settings.method == "mdt":
            scale = settings.teacher.guidance_scale
            training += fit_transport(unet, task, pairs, settings.fit, state, negative_text(engine).cpu(), scale)
        else:
            moments = tuple(task.moment(float(timestep)) for timestep in own)
            training += fit_student(unet, task, pairs, settings.fit, state, moments)
    found = Distilled(
        settings=settings,
        teacher=engine.key,
        pairs=len(pairs),
        cost=Cost(pairs=drawn.seconds, training=round(training, 1)),
        before=_bend("how the teacher bends", [teacher] * FINE, task, pairs),
        after=_bend("how the student bends", [unets[segment(time, blocks.boundaries)] for time in times], task, pairs),
    )
    _save(engine.model, unets, blocks, found, out / "model")
    changes = {"model": "./model", "sampling": few_steps(task, settings.steps)}
    write_atomic(out / "recipe.toml", recipe.model_copy(update=changes).to_toml())
    return out / "recipe.toml", found


def check_work(settings: DistillSettings, merged: Merged, out: Path, model: Path) -> None:
    """Refuse, before an engine is built, what `distill` could not do with a teacher's folder.

    Raises:
        UsageError: the method does not fit the teacher, or it is SDXL.
        BadInputError: the payloads do not fit the teacher, or `out` was begun with other settings.
    """
    _check_method(settings, model, UNet2DConditionModel.load_config(part(model, "unet")), merged)
    check_fit(merged, model)
    check_claim(out / FACTS, _facts(settings, merged), WHAT, later=("engine",))


def _facts(settings: DistillSettings, merged: Merged) -> dict[str, Any]:
    """What a student is made by, but for the engine."""
    return settings.model_dump(mode="json", exclude={"fit": {"steps"}}) | by_client(merged.clients, merged.digests)


def _check_method(settings: DistillSettings, model: Path, config: Mapping[str, Any], merged: Merged) -> None:
    wrong = check_method(settings.method, Task.of_model(model))
    if wrong:
        raise UsageError(wrong, "choose another --method or --teacher")
    if draws(Schedule.of_model(model, settings.teacher).start):
        what = f"{settings.teacher.scheduler}: adds noise on its way, so that the noise an image begins as tells little"
        raise UsageError(
            f"the teacher's scheduler {what} of it", "give a --recipe whose scheduler adds none: ddim, say"
        )
    if settings.method == "mdt" and settings.teacher.guidance_interval != EVERYWHERE:
        hint = "choose another --method, or a --recipe without guidance_interval"
        raise UsageError("mdt learns from a teacher that is guided at all noise levels", hint)
    if config.get("addition_embed_type") is not None or load_blocks(model).boundaries:
        raise UsageError("neither SDXL nor a blockwise model can be distilled yet", "choose another teacher")
    if settings.method == "mdt" and any(merged.domains):
        raise UsageError(
            "mdt learns one negative prompt, but the payloads name domains, which have their own",
            "choose another --method",
        )
    if merged.embeddings is None:
        raise UsageError("the payloads hold token ids", "embed with --send embeddings")
    if settings.blocks > (1 if settings.method == "mdt" else settings.steps):
        raise UsageError(
            f"{settings.blocks} blocks are more than {settings.method} has steps to share", "give fewer --blocks"
        )
    widths = list(config["block_out_channels"])
    if settings.channels and len(settings.channels) != len(widths):
        raise UsageError(
            f"--channels: {len(settings.channels)} widths, but the teacher has {len(widths)}: {widths}", "give as many"
        )


def _unet(folder: Path) -> UNet2DConditionModel:
    unet: UNet2DConditionModel = read_network(UNet2DConditionModel, folder)
    return unet.to(own_device(), memory_format=torch.channels_last)


def _student(folder: Path, channels: tuple[int, ...] | None) -> UNet2DConditionModel:
    """A copy of the teacher's network, or one of other widths with random weights."""
    if channels is None:
        return _unet(folder)
    torch.manual_seed(0)
    config = UNet2DConditionModel.load_config(folder) | {"block_out_channels": channels}
    try:
        return UNet2DConditionModel.from_config(config).to(own_device(), memory_format=torch.channels_last)
    except ValueError as error:
        raise UsageError(f"--channels: {error}", f"give multiples of {config['norm_num_groups']}") from error


def few_steps(task: Task, steps: int) -> Sampling:
    """How a student is sampled: a straight line needs no better solver than Euler's, from the last timestep on.

    A model's own spacing may leave that out: Stable Diffusion 1.5's has one step lie at timestep 1, where hardly any
    noise is.
    """
    if task.kind == "velocity":
        return Sampling(steps=steps, scheduler="flow-euler", guidance_scale=1.0)
    return Sampling(steps=steps, scheduler="euler", spacing="trailing", guidance_scale=1.0)


def _times(model: Path, task: Task, steps: int) -> tuple[float, ...]:
    """Timesteps at which a student of few steps is asked."""
    schedule = Schedule.of_model(model, few_steps(task, steps))
    return tuple(timestep for timestep, _ in schedule.rows())


def _share(times: tuple[float, ...], blocks: int) -> Blocks:
    """Equal numbers of steps for each network; one hands over where the next one's first step lies."""
    return Blocks(boundaries=tuple(float(part[0]) for part in np.array_split(times, blocks)[1:]))


@torch.inference_mode()
def _bend(name: str, unets: Sequence[UNet2DConditionModel], task: Task, pairs: Pairs) -> Bend | None:
    """How trajectories bend in as many equal steps as there are networks, each asked in its step."""
    if task.kind != "velocity" or len(unets) == 1:  # one step is straight, whatever it is
        return None
    noise_BCHW, _, text_BLD = (tensor.to(own_device()) for tensor in pairs.batch(torch.arange(min(JUDGED, len(pairs)))))
    coming = iter(unets)
    with Progress(name, len(unets), unit="step") as progress:

        def velocity(x_BCHW: Tensor, t_B: Tensor) -> Tensor:
            velocity_BCHW = task.ask(next(coming).eval(), x_BCHW, t_B, text_BLD)
            progress.advance(1)
            return velocity_BCHW

        return bend(velocity, noise_BCHW, uniform(len(unets)))


def _save(teacher: Path, unets: Sequence[UNet2DConditionModel], blocks: Blocks, found: Distilled, folder: Path) -> None:
    """The teacher's folder with the student's networks."""
    with finished_folder(folder) as unfinished:
        for place in reversed(places(teacher)):  # its own files over those it shares
            shutil.copytree(place, unfinished, dirs_exist_ok=True, ignore=_left)
        if blocks.boundaries:
            blocks.save(unfinished / BLOCKS)
        for folder, unet in zip(blocks.folders(unfinished), unets, strict=True):
            unet.register_to_config(_name_or_path=name_of(teacher))  # not where it lay
            unet.half().save_pretrained(folder / "unet", safe_serialization=True)
            if folder != unfinished:
                shutil.copyfile(unfinished / INDEX, folder / INDEX)
        found.save(unfinished / "student.json")


def _left(folder: str, names: list[str]) -> set[str]:
    """What of a teacher's folder the student's is made without: its own parts, and what no student reads."""
    own = shutil.ignore_patterns("unet", BLOCK, BLOCKS, "README.md")(folder, names)
    return own | {name for name in names if Path(name).suffix not in COPIED and not Path(folder, name).is_dir()}
