"""Train a network anew on pairs of noise and data that a teacher drew: reflow and rectified diffusion.

A pair's line is followed by no other pair's, so the student's paths are nearly straight and few steps solve them; drawn
by a guided teacher, the pairs hold the guidance, and the student needs none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any, Literal

import diffusers
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from fglfast.base.errors import BadInputError
from fglfast.base.untrusted import loading
from fglfast.generator.learning.fitting import Fit, FitSettings
from fglfast.generator.learning.flow import TIMESTEPS
from fglfast.generator.learning.paths import LINEAR, Kind, Path, wide
from fglfast.generator.parts import part
from fglfast.generator.scheduler import CONFIG, lacks, noise_levels, own_clock, scheduler_config

KINDS: dict[str, Kind] = {"flow_prediction": "velocity", "epsilon": "noise", "sample": "data", "v_prediction": "v"}


class Pairs:
    """Noise, the data that a teacher made of it, and the text it did so by; all in memory.

    Args:
        noise_NCHW: where the teacher began.
        data_NCHW: where it ended.
        text_RLD: distinct texts.
        row_N: which of them each pair was drawn by.
    """

    def __init__(self, noise_NCHW: Tensor, data_NCHW: Tensor, text_RLD: Tensor, row_N: Tensor) -> None:
        self.noise, self.data, self.text, self.row = noise_NCHW, data_NCHW, text_RLD, row_N

    def __len__(self) -> int:
        return len(self.noise)

    def batch(self, rows_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noise [B,C,H,W], data [B,C,H,W] and text embeddings [B,L,D] of some pairs."""
        return self.noise[rows_B].float(), self.data[rows_B].float(), self.text[self.row[rows_B]].float()


@dataclass(frozen=True)
class Task:
    """What a network predicts, on which path.

    Attributes:
        path: between data and noise.
        kind: of prediction.
        clock: t in [0,1] to the network's timesteps.
        levels: how many of those t=1 is.
    """

    path: Path
    kind: Kind
    clock: Callable[[Tensor], Tensor]
    levels: int = TIMESTEPS

    def moment(self, timestep: float) -> float:
        """A t at which the clock shows this timestep: the middle of a table's level, as quotients may round down."""
        return (timestep if self.kind == "velocity" else timestep + 0.5) / self.levels

    def ask(self, unet: UNet2DConditionModel, x: Tensor, t_B: Tensor, text_BLD: Tensor) -> Tensor:
        """What a network predicts at x [B,C,H,W] and t."""
        x = x.contiguous(memory_format=torch.channels_last)
        prediction: Tensor = unet(x, self.clock(t_B), text_BLD, return_dict=False)[0]
        return prediction

    def target(self, data: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
        """What a network should say where data and noise [B,...] are mixed at t, as both are known."""
        if self.kind == "velocity":
            return self.path.velocity(data, noise, t_B)
        if self.kind == "v":
            return wide(self.path.data(t_B), data) * noise - wide(self.path.noise(t_B), data) * data
        return data if self.kind == "data" else noise

    @classmethod
    def of_model(cls, folder: File) -> "Task":
        """What the model of a diffusers folder was trained to do.

        Raises:
            BadInputError: its scheduler's config is missing, or is none that a network can be trained by.
        """
        config = scheduler_config(folder)
        with loading(part(folder, CONFIG)):
            return cls.of_scheduler(config)

    @classmethod
    def of_scheduler(cls, config: dict[str, Any]) -> "Task":
        """What a model was trained to do, by its diffusers scheduler's config.

        Raises:
            BadInputError: the scheduler is none of a table of noise levels, nor of the linear path.
        """
        name = str(config.get("_class_name", ""))
        if name.startswith("FlowMatch") or config.get("use_flow_sigmas"):
            levels = noise_levels(config)
            return cls(LINEAR, "velocity", lambda t: levels * t, levels)
        if own_clock(config) or not _has_table(name):
            raise BadInputError(
                f"{name}: its noise levels are no table, and no path to train on is known", "use another model"
            )
        path, levels = scheduled_path(config)
        if (kind := KINDS.get(predicted := str(config.get("prediction_type", "epsilon")))) is None:
            raise BadInputError(f"{name}: predicts {predicted}, which is not known here", f"give {', '.join(KINDS)}")
        return cls(path, kind, lambda t: (levels * t).floor().clamp(max=levels - 1), levels)


def _has_table(name: str) -> bool:
    """Whether a scheduler counts in a table's noise levels; one that is not known here, or not installed, may."""
    known = hasattr(diffusers, name) and not lacks(name)
    return not known or hasattr(getattr(diffusers, name)(), "alphas_cumprod")


def scheduled_path(config: dict[str, Any]) -> tuple[Path, int]:
    """The path of a discrete diffusion model and how many noise levels it has (rectified diffusion, arXiv 2410.07303).

    It is a table: it has no rates, so that nothing on it can be turned into a velocity.
    """
    alphas = DDIMScheduler.from_config(config).alphas_cumprod
    levels = len(alphas)

    def at(table: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda t: table.to(t)[(levels * t).floor().long().clamp(max=levels - 1)]

    def no_rate(t: Tensor) -> Tensor:
        raise NotImplementedError("a table of noise levels has no derivative")

    return Path(at(alphas.sqrt()), at((1 - alphas).sqrt()), no_rate, no_rate), levels


def fit_student(
    unet: UNet2DConditionModel,
    task: Task,
    pairs: Pairs,
    settings: FitSettings,
    state: File,
    moments: tuple[float, ...] = (),
) -> float:
    """Train a copy of the teacher's UNet in place, resumably; returns the seconds of all calls together.

    It is trained at `moments`, the only times at which it will be asked; without any, at all of them.
    """
    device = next(unet.parameters()).device
    fit = Fit("student", nn.ModuleDict({"unet": unet}), settings, state)

    def loss_function(batch_size: int, generator: torch.Generator) -> Tensor:
        rows_B = torch.randint(len(pairs), (batch_size,), generator=generator)
        noise, data, text_BLD = (tensor.to(device) for tensor in pairs.batch(rows_B))
        t_B = _times(batch_size, moments, generator).to(device)
        prediction = task.ask(unet, task.path.at(data, noise, t_B), t_B, text_BLD)
        return (prediction - task.target(data, noise, t_B)).square().mean()

    fit.run(loss_function)
    return fit.seconds


def _times(count: int, moments: tuple[float, ...], generator: torch.Generator) -> Tensor:
    if not moments:
        return torch.rand(count, generator=generator)
    return torch.tensor(moments)[torch.randint(len(moments), (count,), generator=generator)]


Method = Literal["reflow", "rectified-diffusion", "mdt"]


def check_method(method: Method, task: Task) -> str | None:
    """Why a method does not fit a teacher, or None."""
    if (method == "rectified-diffusion") == (task.kind == "velocity"):
        wanted = "reflow or mdt" if task.kind == "velocity" else "rectified-diffusion"
        return f"{method} is not for a model that predicts {task.kind}; use {wanted}"
    if task.kind == "noise" and not task.path.data(torch.ones(1)).any():
        return "the teacher predicts noise, and its last timestep is noise alone (rescale_betas_zero_snr)"
    return None
