"""Paths between data and noise, and what a network on one of them may predict.

x_t = a(t) x0 + s(t) e with data x0 at t=0 and noise e at t=1 (stochastic interpolants, arXiv 2303.08797).
All tensors of a call share their shape [B,...]; t is [B] in [0,1].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["velocity", "noise", "data", "v"]  # v = a e - s x0 (Salimans and Ho, arXiv 2202.00512)
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


def wide(t: Tensor, like: Tensor) -> Tensor:
    """[B] as [B,1,...], to be multiplied with `like`."""
    return t.view(-1, *(1,) * (like.ndim - 1))
