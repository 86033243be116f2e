"""From noise to data along a velocity field, as training does it; engines sample by diffusers' schedulers.

`velocity(x [B,...], t [B])` is dx/dt; times run from 1 (noise) down to 0 (data).
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from fglfast.base.config import Settings

Velocity = Callable[[Tensor, Tensor], Tensor]


def guided(conditional: Velocity, free: Velocity, scale: float) -> Velocity:
    """Classifier-free guidance of a velocity; at scale 1 the unconditional one is not asked."""
    if scale == 1.0:
        return conditional

    def velocity(x: Tensor, t_B: Tensor) -> Tensor:
        without = free(x, t_B)
        return without + scale * (conditional(x, t_B) - without)

    return velocity


def uniform(steps: int) -> Tensor:
    """Times of equal steps [steps + 1]."""
    return torch.linspace(1.0, 0.0, steps + 1)


def follow(velocity: Velocity, noise: Tensor, times: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Trajectories by Euler's method: their points at these times, the noise first, and the velocities between them."""
    points, velocities = [noise], []
    for now, after in pairwise(times):
        velocities.append(velocity(points[-1], now.expand(len(noise)).to(noise)))
        points.append(points[-1] + (after - now) * velocities[-1])
    return points, velocities


def euler(velocity: Velocity, noise: Tensor, times: Tensor) -> Tensor:
    """Where trajectories end: one evaluation a step, first order."""
    return follow(velocity, noise, times)[0][-1]


class Bend(Settings):
    """How far trajectories are from straight lines, in units of their chords; both are 0 if they are.

    Attributes:
        straightness: mean over time and samples of |(x_1 - x_0) - v(x_t, t)|^2 (rectified flow, arXiv 2209.03003,
            equation 6).
        curvature: the same mean of |dv/dt|^2 along the trajectory.
    """

    straightness: float
    curvature: float

    def __str__(self) -> str:
        return f"straightness {self.straightness:g}, curvature {self.curvature:g}"


def bend(velocity: Velocity, noise: Tensor, times: Tensor) -> Bend:
    """Follow trajectories over equal steps, and see how they bend."""
    points, velocities = follow(velocity, noise, times)
    chord, path = noise - points[-1], torch.stack(velocities)
    turns = path.diff(dim=0) * len(path) if len(path) > 1 else torch.zeros(1)
    size = chord.square().mean()
    return Bend(
        straightness=round(float((chord - path).square().mean() / size), 5),
        curvature=round(float(turns.square().mean() / size), 5),
    )
