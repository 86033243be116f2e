"""Teacher to student: draw pairs, train on them, save a folder that synthesizes in few unguided steps."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from fglfast.config import Settings
from fglfast.distill.pairs import draw_pairs, read_pairs
from fglfast.engine.build import Engine
from fglfast.errors import UsageError
from fglfast.files import finished_folder, write_atomic
from fglfast.generator.fitting import FitSettings
from fglfast.generator.solvers import straightness
from fglfast.generator.student import HeldPairs, Method, Task, check_method, fit_student
from fglfast.generator.transport import fit_transport
from fglfast.merge import Merged
from fglfast.sampler.schedule import Sampling, Schedule
from fglfast.synthesis.conditioning import negative_text

JUDGED = 64  # trajectories whose straightness is measured


class DistillSettings(Settings):
    """How a student is made.

    Attributes:
        method: reflow for flow models, mdt for one or two steps of them; rectified-diffusion for models that predict
            noise, data or v.
        steps: of the student; it is trained at their times only. mdt, and None, train at all times.
        teacher: how the teacher samples; its guidance is what the student learns to do without.
        pairs_per_class: drawn by the teacher.
        fit: of the student's network.
        seed: of the pairs' noises.
    """

    method: Method = "reflow"
    steps: int | None = None
    teacher: Sampling
    pairs_per_class: int = 2000
    fit: FitSettings = FitSettings(steps=4000, batch_size=64, learning_rate=5e-4, ema_decay=0.998, warmup_steps=100)
    seed: int = 2**32


class Distilled(Settings):
    """What came out, `student.json` in the model's folder.

    Attributes:
        settings: as asked.
        teacher: key of its engine.
        pairs: it was trained on.
        straight_before: of the teacher's unguided trajectories (0 is straight); None if it predicts no velocity.
        straight_after: of the student's.
    """

    settings: DistillSettings
    teacher: str
    pairs: int
    straight_before: float | None
    straight_after: float | None


def distill(engine: Engine, merged: Merged, settings: DistillSettings, out: Path) -> tuple[Path, Distilled]:
    """Make `out/model`, a diffusers folder; killed, it goes on with the pairs and steps that are there.

    Args:
        engine: the teacher's.
        merged: the rows of prompts that the student is made for.
        settings: how.
        out: folder of pairs, checkpoint and model.

    Raises:
        UsageError: the method does not fit the teacher, or it is SDXL.
        BadInputError: `out` holds pairs of another teacher.
    """
    config: dict[str, Any] = json.loads((engine.model / "scheduler" / "scheduler_config.json").read_text())
    task, unet = Task.of_scheduler(config), _unet(engine.model)
    wrong = check_method(settings.method, task)
    if wrong or unet.config.addition_embed_type is not None:
        raise UsageError(wrong or "SDXL cannot be distilled yet", "choose another method or teacher")
    if merged.embeddings is None:
        raise UsageError("the payloads hold token ids", "embed with --send embeddings")
    drawn = draw_pairs(engine, merged, settings.pairs_per_class, settings.seed, settings.teacher, out / "pairs")
    pairs = read_pairs(drawn, merged, engine.shapes.latent)
    before = _straightness(unet, task, pairs)
    if settings.method == "mdt":
        scale = settings.teacher.guidance_scale
        fit_transport(unet, task, pairs, settings.fit, _state(out), negative_text(engine).cpu(), scale)
    else:
        fit_student(unet, task, pairs, settings.fit, _state(out), _moments(engine.model, settings.steps))
    found = Distilled(
        settings=settings,
        teacher=engine.key,
        pairs=len(pairs),
        straight_before=before,
        straight_after=_straightness(unet, task, pairs),
    )
    _save(engine.model, unet, found, out / "model")
    return out / "model", found


def _unet(model: Path) -> UNet2DConditionModel:
    unet = UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.float32, use_safetensors=True)
    return unet.to(memory_format=torch.channels_last)


def _state(out: Path) -> Path:
    (out / "state").mkdir(exist_ok=True)
    return out / "state"


def _moments(model: Path, steps: int | None) -> tuple[float, ...]:
    """The times at which a student of few steps is asked: those of the model's own solver."""
    if steps is None:
        return ()
    schedule = Schedule.of_model(model, Sampling(steps=steps, guidance_scale=1.0))
    levels = float(schedule.config.get("num_train_timesteps", 1000))
    return tuple(float(timestep) / levels for timestep in schedule.start().timesteps)


@torch.inference_mode()
def _straightness(unet: UNet2DConditionModel, task: Task, pairs: HeldPairs) -> float | None:
    if task.kind != "velocity":
        return None
    noise_BCHW, _, text_BLD = pairs.batch(torch.arange(min(JUDGED, len(pairs))))
    unet.eval()

    def velocity(x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        answer: Tensor = unet(x_BCHW, task.clock(t_B), text_BLD, return_dict=False)[0]
        return answer

    return round(straightness(velocity, noise_BCHW), 5)


def _save(teacher: Path, unet: UNet2DConditionModel, found: Distilled, folder: Path) -> None:
    """The teacher's folder with the student's UNet."""
    with finished_folder(folder) as unfinished:
        shutil.copytree(teacher, unfinished, dirs_exist_ok=True, ignore=shutil.ignore_patterns("unet", "README.md"))
        unet.half().save_pretrained(unfinished / "unet", safe_serialization=True)
        write_atomic(unfinished / "student.json", found.model_dump_json(indent=2) + "\n")
