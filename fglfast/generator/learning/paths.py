"""Paths between data and noise, and what a network on one of them may predict. Knows no network and no solver.

x_t = a(t) x0 + s(t) e with data x0 at t=0 and noise e at t=1 (stochastic interpolants, arXiv 2303.08797).
All tensors of a call share their shape [B,...]; t is [B] in [0,1].
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["velocity", "noise", "data", "v"]
Scalar = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Path:
    """One path.

    Attributes:
        data: a(t), the share of the data, from 1 to 0.
        noise: s(t), the share of the noise, from 0 to 1.
        data_rate: a'(t).
        noise_rate: s'(t).
    """

    data: Scalar
    noise: Scalar
    data_rate: Scalar
    noise_rate: Scalar

    def at(self, x0: Tensor, e: Tensor, t: Tensor) -> Tensor:
        """Where data and noise are mixed at t."""
        return wide(self.data(t), x0) * x0 + wide(self.noise(t), e) * e

    def velocity(self, x0: Tensor, e: Tensor, t: Tensor) -> Tensor:
        """dx_t/dt: what flow matching regresses on."""
        return wide(self.data_rate(t), x0) * x0 + wide(self.noise_rate(t), e) * e


LINEAR = Path(lambda t: 1 - t, lambda t: t, lambda t: -torch.ones_like(t), torch.ones_like)
TRIGONOMETRIC = Path(
    lambda t: torch.cos(math.pi / 2 * t),
    lambda t: torch.sin(math.pi / 2 * t),
    lambda t: -math.pi / 2 * torch.sin(math.pi / 2 * t),
    lambda t: math.pi / 2 * torch.cos(math.pi / 2 * t),
)


def data_and_noise(path: Path, kind: Kind, prediction: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The data and the noise that a prediction amounts to.

    Args:
        path: that x lies on.
        kind: velocity; noise e; data x0; or v = a e - s x0 (Salimans and Ho, arXiv 2202.00512).
        prediction: the network's.
        x: where it was made.
        t: when; noise tells nothing of the data at t=1, data nothing of the noise at t=0.
    """
    a, s = wide(path.data(t), x), wide(path.noise(t), x)
    if kind == "noise":
        return (x - s * prediction) / a, prediction
    if kind == "data":
        return prediction, (x - a * prediction) / s
    if kind == "v":
        norm = a.square() + s.square()
        return (a * x - s * prediction) / norm, (s * x + a * prediction) / norm
    da, ds = wide(path.data_rate(t), x), wide(path.noise_rate(t), x)
    area = a * ds - da * s
    return (ds * x - s * prediction) / area, (a * prediction - da * x) / area


def convert(path: Path, given: Kind, wanted: Kind, prediction: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """A prediction of one kind as another; arguments as for `data_and_noise`."""
    if given == wanted:
        return prediction
    return right_prediction(path, wanted, *data_and_noise(path, given, prediction, x, t), t)


def right_prediction(path: Path, kind: Kind, x0: Tensor, e: Tensor, t: Tensor) -> Tensor:
    """What a network should say where data and noise are mixed at t, if both are known."""
    if kind == "velocity":
        return path.velocity(x0, e, t)
    if kind == "v":
        return wide(path.data(t), x0) * e - wide(path.noise(t), x0) * x0
    return x0 if kind == "data" else e


def score(path: Path, velocity: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """Gradient of the log density of x_t, for t > 0: -E[e | x_t] / s(t)."""
    _, e = data_and_noise(path, "velocity", velocity, x, t)
    return -e / wide(path.noise(t), x)


def wide(t: Tensor, like: Tensor) -> Tensor:
    """[B] as [B,1,...], to be multiplied with `like`."""
    return t.view(-1, *(1,) * (like.ndim - 1))
