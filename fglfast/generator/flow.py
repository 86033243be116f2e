"""Latent flow matching on the linear path (arXiv 2307.08698). Knows nothing of networks or text.

Data x0, noise e, t in [0,1] with noise at t=1: x_t = (1-t) x0 + t e, velocity v = e - x0.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

TIMESTEPS = 1000


def noisy_pair(x0_BCHW: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw t logit-normally and noise, and put the data on the path (arXiv 2403.03206, section 3.1).

    Returns:
        x_t [B,C,H,W], t [B] in (0,1), and the velocity target e - x0 [B,C,H,W].
    """
    device = x0_BCHW.device
    t_B = torch.sigmoid(torch.randn(len(x0_BCHW), generator=generator)).to(device)
    noise_BCHW = torch.randn(x0_BCHW.shape, generator=generator).to(device)
    t_B111 = t_B.view(-1, 1, 1, 1)
    return (1 - t_B111) * x0_BCHW + t_B111 * noise_BCHW, t_B, noise_BCHW - x0_BCHW


def euler(velocity: Callable[[Tensor, Tensor], Tensor], noise_BCHW: Tensor, steps: int) -> Tensor:
    """Integrate dx/dt = v(x, t) from t=1 to 0 in equal Euler steps."""
    x_BCHW, times = noise_BCHW, torch.linspace(1.0, 0.0, steps + 1)
    for now, after in pairwise(times):
        x_BCHW = x_BCHW + (after - now) * velocity(x_BCHW, now.expand(len(x_BCHW)).to(x_BCHW.device))
    return x_BCHW
