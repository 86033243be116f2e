"""The sampler: a pure function over a Denoiser. Knows nothing of models, files or labels."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from fglfast.engine.networks import Denoiser
from fglfast.errors import BadInputError


@dataclass(frozen=True)
class Schedule:
    """How time is stepped through: a diffusers scheduler's class and config, and the number of steps."""

    scheduler: str
    config: dict[str, Any]
    steps: int

    @classmethod
    def of_model(cls, model: Path, steps: int) -> "Schedule":
        """The scheduler that the model folder names.

        Raises:
            BadInputError: the config is missing or names no diffusers scheduler.
        """
        path = model / "scheduler" / "scheduler_config.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            name = config["_class_name"]
        except (OSError, ValueError, KeyError) as error:
            raise BadInputError(
                f"{path}: not a scheduler config ({error})", "use a complete diffusers folder"
            ) from error
        if not name.endswith("Scheduler") or not hasattr(diffusers, name):
            raise BadInputError(f"{path}: no diffusers scheduler is named {name!r}", "mend _class_name")
        return cls(name, config, steps)

    def start(self) -> Any:
        """A fresh scheduler at its first step: schedulers remember, so each batch gets its own."""
        scheduler = getattr(diffusers, self.scheduler).from_config(self.config)
        scheduler.set_timesteps(self.steps)
        return scheduler


@torch.inference_mode()
def sample(
    denoiser: Denoiser,
    noise_BCHW: Tensor,
    text_BLD: Tensor,
    negative_LD: Tensor,
    schedule: Schedule,
    guidance_scale: float,
) -> Tensor:
    """Denoise a batch with classifier-free guidance (Ho and Salimans, arXiv 2207.12598) in one pass a step.

    Args:
        denoiser: the network; with guidance it sees 2B rows, unconditional first.
        noise_BCHW: starting noise, standard normal.
        text_BLD: text embedding of every image.
        negative_LD: embedding of the negative (or empty) prompt.
        schedule: steps and solver.
        guidance_scale: w in v(empty) + w (v(text) - v(empty)); at 1 only the conditional pass is made.

    Returns:
        Latents [B,C,H,W] as the VAE decoder expects them.
    """
    scheduler = schedule.start()
    guided = guidance_scale != 1.0
    latents_BCHW: Tensor = noise_BCHW * scheduler.init_noise_sigma
    if guided:
        text_BLD = torch.cat([negative_LD.expand_as(text_BLD), text_BLD])
    for timestep in scheduler.timesteps:
        input_BCHW = scheduler.scale_model_input(latents_BCHW, timestep)
        if guided:
            input_BCHW = torch.cat([input_BCHW, input_BCHW])
        timestep_B = timestep.to(torch.float32).expand(len(input_BCHW))
        prediction_BCHW = denoiser(input_BCHW, timestep_B, text_BLD)
        if guided:
            free_BCHW, conditional_BCHW = prediction_BCHW.chunk(2)
            prediction_BCHW = free_BCHW + guidance_scale * (conditional_BCHW - free_BCHW)
        latents_BCHW = scheduler.step(prediction_BCHW, timestep, latents_BCHW, return_dict=False)[0]
    return latents_BCHW
