"""From noise to data along a velocity field: ODE solvers and an SDE of any diffusion. Knows no network.

`velocity(x [B,...], t [B])` is dx/dt; times run from 1 (noise) down to 0 (data). Compiled engines sample by diffusers'
schedulers; these are for training, for straightness, and to check those.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from fglfast.base.config import Settings
from fglfast.generator.learning.paths import Path, score

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


def euler(velocity: Velocity, noise: Tensor, times: Tensor) -> Tensor:
    """One evaluation a step, first order."""
    x = noise
    for now, after in pairwise(times):
        x = x + (after - now) * velocity(x, _everywhere(now, x))
    return x


def heun(velocity: Velocity, noise: Tensor, times: Tensor) -> Tensor:
    """Two evaluations a step, second order."""
    x = noise
    for now, after in pairwise(times):
        first = velocity(x, _everywhere(now, x))
        second = velocity(x + (after - now) * first, _everywhere(after, x))
        x = x + (after - now) * 0.5 * (first + second)
    return x


def rk45(velocity: Velocity, noise: Tensor, tolerance: float = 1e-6) -> tuple[Tensor, int]:
    """The reference: Dormand and Prince's adaptive pair (scipy). Returns the data and the evaluations it took."""

    def flat(t: float, x: NDArray[np.float64]) -> NDArray[np.float64]:
        now = torch.from_numpy(x).to(noise).view_as(noise)
        return velocity(now, _everywhere(torch.tensor(t), noise)).double().flatten().cpu().numpy()

    found = solve_ivp(flat, (1.0, 0.0), noise.double().flatten().cpu().numpy(), rtol=tolerance, atol=tolerance)
    return torch.from_numpy(found.y[:, -1]).to(noise).view_as(noise), int(found.nfev)


def sde(
    velocity: Velocity,
    path: Path,
    diffusion: Callable[[Tensor], Tensor],
    noise: Tensor,
    times: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Euler-Maruyama of dx = (v - g^2/2 score) dt + g dW backwards in time: the ODE's marginals, for any g.

    Args:
        velocity: of the ODE.
        path: that it was trained on, for the score (arXiv 2303.08797, section 2.2).
        diffusion: g(t) >= 0; 0 is the ODE. The last step, where the score has no bound, is the ODE's.
        noise: where it begins.
        times: descending.
        generator: of the Brownian increments.
    """
    x = noise
    for now, after in pairwise(times):
        t, step = _everywhere(now, x), after - now
        v, g = velocity(x, t), diffusion(now)
        if after > 0 and g > 0:
            increments = torch.randn(x.shape, generator=generator).to(x)
            x = x + step * (v - 0.5 * g * g * score(path, v, x, t)) + g * (-step).sqrt() * increments
        else:
            x = x + step * v
    return x


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
    """Follow trajectories by Euler's method over equal steps, and see how they bend."""
    x, seen = noise, []
    for now, after in pairwise(times):
        seen.append(velocity(x, _everywhere(now, x)))
        x = x + (after - now) * seen[-1]
    chord, path = noise - x, torch.stack(seen)
    turns = path.diff(dim=0) * len(path) if len(path) > 1 else torch.zeros(1)
    size = chord.square().mean()
    return Bend(
        straightness=round(float((chord - path).square().mean() / size), 5),
        curvature=round(float(turns.square().mean() / size), 5),
    )


def _everywhere(t: Tensor, x: Tensor) -> Tensor:
    return t.expand(len(x)).to(x)
