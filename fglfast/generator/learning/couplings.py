"""Which noise goes with which data while a flow is trained.

A coupling is given a batch's data, independent noise and the condition of each row, and answers with noise and weights.
Rows are paired within one condition only: else noise would tell of the condition, which it does not when one samples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

CouplingName = Literal["independent", "ot", "sparse-ot", "w-cfm", "immiscible"]


@dataclass(frozen=True)
class Paired:
    """Which noise goes with the rows of a batch.

    Attributes:
        noise: of each row [B,...].
        weight: of each row's loss [B], with mean 1.
    """

    noise: Tensor
    weight: Tensor

    @property
    def effective(self) -> float:
        """Effective sample size as a share of the batch: (sum w)^2 / (B sum w^2)."""
        return float(self.weight.sum().square() / (len(self.weight) * self.weight.square().sum()))


Coupling = Callable[[Tensor, Tensor, Tensor, torch.Generator], Paired]


def independent(x0: Tensor, noise: Tensor, condition_B: Tensor, generator: torch.Generator) -> Paired:
    """Each row keeps the noise it was given."""
    return Paired(noise, torch.ones(len(noise)))


def minibatch_ot(x0: Tensor, noise: Tensor, condition_B: Tensor, generator: torch.Generator) -> Paired:
    """Exact optimal transport of the batch (Tong et al., arXiv 2302.00482; Pooladian et al., arXiv 2304.14772)."""

    def assign(cost: Tensor) -> Tensor:
        return torch.from_numpy(linear_sum_assignment(cost.numpy())[1])

    return _within(x0, noise, condition_B, assign)


def sparse_ot(partners: int = 2) -> Coupling:
    """Optimal transport in which a row may share so many noises (Liu et al., arXiv 2209.15466), drawn by the plan.

    Raises:
        ModuleNotFoundError: POT is not installed, which no other coupling needs.
    """
    import ot

    def couple(x0: Tensor, noise: Tensor, condition_B: Tensor, generator: torch.Generator) -> Paired:
        def draw(cost: Tensor) -> Tensor:
            share = np.full(len(cost), 1 / len(cost))
            plan = ot.smooth.smooth_ot_dual(
                share,
                share,
                (cost / cost.mean()).double().numpy().T,
                reg=0.1,  # quadratic, in units of the mean cost
                reg_type="sparsity_constrained",
                max_nz=min(partners, len(cost) - 1),
            )
            # Its constraint is on columns: for it to be on rows of data, cost and plan are turned.
            shares = torch.from_numpy(plan.T).clamp(min=0) + 1e-12
            return torch.multinomial(shares, 1, generator=generator)[:, 0]

        return _within(x0, noise, condition_B, draw)

    return couple


def weighted(spread: float = 1.0) -> Coupling:
    """Independent pairs, each weighted by the Gibbs kernel exp(-|x0 - e|^2 / eps) (W-CFM, arXiv 2507.22270).

    Args:
        spread: eps over the standard deviation of the batch's costs; large is independent.
    """

    def couple(x0: Tensor, noise: Tensor, condition_B: Tensor, generator: torch.Generator) -> Paired:
        cost_B = (x0 - noise).flatten(1).square().sum(1)
        weight_B = (-cost_B / (spread * cost_B.std().clamp(min=1e-6))).softmax(0) * len(cost_B)
        return Paired(noise, weight_B.cpu())

    return couple


def immiscible(candidates: int = 4) -> Coupling:
    """For each row the nearest of k noises (improved immiscible diffusion, 2025); k=1 is independent."""

    def couple(x0: Tensor, noise: Tensor, condition_B: Tensor, generator: torch.Generator) -> Paired:
        more = torch.randn((candidates - 1, *noise.shape), generator=generator).to(noise)
        noise_KB = torch.cat([noise[None], more])
        nearest_B = (noise_KB - x0[None]).flatten(2).square().sum(2).argmin(0)
        return Paired(noise_KB[nearest_B, torch.arange(len(noise), device=noise.device)], torch.ones(len(noise)))

    return couple


COUPLINGS: dict[CouplingName, Callable[[], Coupling]] = {
    "independent": lambda: independent,
    "ot": lambda: minibatch_ot,
    "sparse-ot": sparse_ot,
    "w-cfm": weighted,
    "immiscible": immiscible,
}
"""How each is made; `sparse-ot` alone needs the extra `pretrain`."""


def _within(x0: Tensor, noise: Tensor, condition_B: Tensor, choose: Callable[[Tensor], Tensor]) -> Paired:
    """To each row a noise, chosen by costs among those of its own condition."""
    chosen_B = torch.arange(len(x0))
    for condition in condition_B.unique():
        rows = torch.nonzero(condition_B == condition)[:, 0].cpu()
        if len(rows) > 1:
            cost = torch.cdist(x0[rows].flatten(1), noise[rows].flatten(1)).square().cpu()
            chosen_B[rows] = rows[choose(cost)]
    return Paired(noise[chosen_B.to(noise.device)], torch.ones(len(noise)))
