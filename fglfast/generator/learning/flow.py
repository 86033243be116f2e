"""When and on what a flow is trained: latent flow matching on the linear path (arXiv 2307.08698)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fglfast.generator.learning.couplings import Coupling, Paired
from fglfast.generator.learning.paths import LINEAR

TIMESTEPS = 1000


@dataclass(frozen=True)
class Lesson(Paired):
    """A batch to regress on.

    Attributes:
        x: points of the paths [B,C,H,W].
        t: when [B], in (0,1).
        target: their velocity [B,C,H,W].
    """

    x: Tensor
    t: Tensor
    target: Tensor

    def loss(self, velocity_BCHW: Tensor) -> Tensor:
        """Weighted mean squared error."""
        error_B = (velocity_BCHW - self.target).square().flatten(1).mean(1)
        return (self.weight.to(error_B) * error_B).mean()


def lesson(x0_BCHW: Tensor, condition_B: Tensor, coupling: Coupling, generator: torch.Generator) -> Lesson:
    """Draw t logit-normally (arXiv 2403.03206, section 3.1) and noise, pair it with the data, put them on the path.

    A row's condition is whose text it is learned with; noise is paired within one.
    """
    device = x0_BCHW.device
    t_B = torch.sigmoid(torch.randn(len(x0_BCHW), generator=generator)).to(device)
    noise_BCHW = torch.randn(x0_BCHW.shape, generator=generator).to(device)
    paired = coupling(x0_BCHW, noise_BCHW, condition_B, generator)
    x_BCHW, target_BCHW = LINEAR.at(x0_BCHW, paired.noise, t_B), LINEAR.velocity(x0_BCHW, paired.noise, t_B)
    return Lesson(paired.noise, paired.weight, x_BCHW, t_B, target_BCHW)
