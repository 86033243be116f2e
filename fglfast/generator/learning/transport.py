"""One or two steps from a flow: marginal-data transport distillation (arXiv 2509.04406).

The student u(x,t) is to be the mean velocity from t down to 0, so that x - t u(x,t) is where the teacher's trajectory
ends. Velocity matching asks that the student's endpoint stays put along that trajectory; then velocity distillation
moves what one step makes towards where the teacher's velocity agrees with the one that the student implies.
"""

from copy import deepcopy
from pathlib import Path as File

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from fglfast.generator.learning.fitting import Fit, FitSettings
from fglfast.generator.learning.paths import LINEAR, wide
from fglfast.generator.learning.solvers import Velocity, guided
from fglfast.generator.learning.student import Pairs, Task

INTERVAL = 0.1  # of the finite difference along the teacher's trajectory
DISTILLED = 0.1  # share of the steps that velocity distillation joins: the last ones, whose rate is low
WEIGHT = 0.1  # of velocity distillation; at 1 it diverges on two points and at the interval 0.05
LATE = 0.8  # mean of the logit of t: most of what one step has to learn is where noise is


def fit_transport(
    unet: UNet2DConditionModel,
    task: Task,
    pairs: Pairs,
    settings: FitSettings,
    state: File,
    negative_LD: Tensor,
    guidance_scale: float,
) -> float:
    """Train a copy of a flow model's UNet in place, resumably; returns the seconds of all calls together.

    Of the pairs only the data is used. The teacher is guided away from the negative text; at a scale of 1, not at all.
    """
    device = next(unet.parameters()).device
    master = deepcopy(unet).eval().requires_grad_(False)
    fit = Fit("student", nn.ModuleDict({"unet": unet}), settings, state)

    def ask(network: UNet2DConditionModel, text_BLD: Tensor) -> Velocity:
        return lambda x, t_B: task.ask(network, x, t_B, text_BLD)

    def loss_function(batch_size: int, generator: torch.Generator) -> Tensor:
        rows_B = torch.randint(len(pairs), (batch_size,), generator=generator)
        _, data, text_BLD = (tensor.to(device) for tensor in pairs.batch(rows_B))
        noise, start = (torch.randn(data.shape, generator=generator).to(device) for _ in range(2))
        t_B = torch.sigmoid(LATE + torch.randn(batch_size, generator=generator)).to(device)
        conditional, free = ask(master, text_BLD), ask(master, negative_LD.to(device).expand_as(text_BLD))
        teacher = guided(conditional, free, guidance_scale)
        student = ask(unet, text_BLD)
        loss = matching(student, teacher, LINEAR.at(data, noise, t_B), t_B)
        if _distils(fit.step, settings.steps):
            loss = loss + WEIGHT * distillation(student, teacher, start, noise, t_B)
        return loss

    fit.run(loss_function)
    return fit.seconds


def networks_asked(steps: int, guidance_scale: float) -> int:
    """How often a training of so many steps asks a network, the student or its teacher, of a batch."""
    along = 3 + (guidance_scale != 1.0)  # the student twice, the teacher
    return sum(2 * along + 1 if _distils(step, steps) else along for step in range(steps))


def _distils(step: int, steps: int) -> bool:
    return step >= (1 - DISTILLED) * steps


def matching(student: Velocity, teacher: Velocity, x: Tensor, t_B: Tensor) -> Tensor:
    """Velocity matching: u + t du/dt = v along the teacher's trajectory, as an error of u.

    Written as what u has to be by its own value a little further, (d v + (t - d) u') / t, which is the paper's identity
    over a finite d, scaled by d/t so that the error has the size of a velocity's. The points x are of the path [B,...].
    """
    here, velocity, further, small_B = _along(student, teacher, x, t_B)
    t, small = wide(t_B, x), wide(small_B, x)
    wanted = (small * velocity + (t - small) * further) / t
    return (here - wanted.detach()).square().mean()


def distillation(student: Velocity, teacher: Velocity, start: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
    """Velocity distillation: a loss whose gradient moves one-step samples by the two velocities' difference.

    The student's velocity is the one its mean velocity implies, u + t du/dt. A difference is cut to 1 a dimension. One
    step makes samples of `start` [B,...]; other noise puts them back on the path.
    """
    leap = student(start, torch.ones_like(t_B))
    with torch.no_grad():
        x = LINEAR.at(start - leap, noise, t_B)
        here, velocity, further, small_B = _along(student, teacher, x, t_B)
        implied = here + wide(t_B / small_B, x) * (here - further)
        away = implied - velocity
        size_B = away.square().flatten(1).mean(1).sqrt()
        away = away / wide(size_B.clamp(min=1.0), away)
    return (leap - (leap - away).detach()).square().mean()


def _along(student: Velocity, teacher: Velocity, x: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The student at x, the teacher there, the student a little further, and how far [B] that is."""
    small_B = t_B.clamp(max=INTERVAL)
    here = student(x, t_B)
    with torch.no_grad():
        velocity = teacher(x, t_B)
        further = student(x - wide(small_B, x) * velocity, t_B - small_B)
    return here, velocity, further, small_B
