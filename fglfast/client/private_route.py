"""Routing under differential privacy: noisy counts, then stochastic gradient descent whose every step has noise.

A step takes each image with the same chance, alone of all others. What an image adds to a step is the gradient of the
generator's loss on it by the few routing logits, divided by its norm and so no longer than 1 (Bu et al., arXiv
2206.07136); to the sum comes Gaussian noise (Abadi et al., 1607.00133). The frozen generator, its prompts and the
server's adapters are public. The counts are released first: what share of the images a step takes follows from these.

The two releases compose by adding up their budgets, and so do several uploads: the noise of the second is chosen by
what the first says, for which finer rules do not hold. An image that is replaced is one removed and another added: the
steps are accounted for as two such changes (group privacy), each of epsilon / 2.
"""

import math
import secrets
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fglfast.base.console import Progress
from fglfast.base.errors import UsageError
from fglfast.client.privacy import Budget, accounting, gaussian
from fglfast.client.private_prompts import private_counts
from fglfast.generator.learning.fitting import FitSettings
from fglfast.generator.learning.invert import Examples, squared_errors
from fglfast.generator.learning.routing import Learner
from fglfast.payload import Privacy

COUNTS = 0.2  # of epsilon, for the counts
SMALL = 0.01  # of a gradient, at which the division by its norm stops
GRID = 1e-3  # to which the noise is found
ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 512)  # of Renyi divergence: whole ones have a finite sum


@dataclass(frozen=True)
class PrivateRoute:
    """A routed release.

    Attributes:
        logits: of the routing [R,H].
        counts: noisy images of each class [K], 0 where none stand out.
        privacy: what the header says.
    """

    logits: Tensor
    counts: NDArray[np.int64]
    privacy: Privacy


def private_route(
    learner: Learner, examples: Examples, counts_K: NDArray[np.int64], settings: FitSettings, budget: Budget
) -> PrivateRoute:
    """Learn a client's routing under a budget of all uploads. A killed run begins anew: nothing of it has left.

    Images, counts and learner are by the federation's classes; the batch size is what a step is expected to take.

    Raises:
        MissingExtraError: dp-accounting is not installed.
        UsageError: no noise is enough for the budget.
    """
    alone = budget.model_copy(
        update={"epsilon": budget.epsilon / budget.uploads, "delta": budget.delta / budget.uploads, "uploads": 1}
    )
    counts_epsilon, delta = COUNTS * alone.epsilon, alone.delta / 2
    noisy_K, stated = private_counts(counts_K, alone.model_copy(update={"epsilon": counts_epsilon, "delta": delta}))
    share = min(1.0, settings.batch_size / int(noisy_K.sum()))
    multiplier = noise_multiplier(alone.epsilon - counts_epsilon, delta, share, settings.steps)
    logits_RH = descend(learner, examples, settings, share, multiplier)
    return PrivateRoute(
        logits_RH, noisy_K, budget.statement(1.0, stated.noise).model_copy(update={"mechanism": "dp-sgd"})
    )


def noise_multiplier(epsilon: float, delta: float, share: float, steps: int) -> float:
    """Standard deviation of the noise on the sum of a step, which takes a share of the images; each adds at most 1.

    Epsilon and delta are of an image that is replaced.

    Raises:
        MissingExtraError: dp-accounting is not installed.
        UsageError: no noise is enough.
    """
    dp, half = accounting(), epsilon / 2
    try:
        found = dp.calibrate_dp_mechanism(
            partial(dp.rdp.RdpAccountant, ORDERS, dp.NeighboringRelation.ADD_OR_REMOVE_ONE),
            lambda noise: dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(share, dp.GaussianDpEvent(noise)), steps),
            half,
            delta / (1 + math.exp(half)),
            bracket_interval=dp.LowerEndpointAndGuess(0.3, 1.0),
            tol=GRID,
        )
    except ValueError as error:
        raise UsageError(f"no noise is enough for epsilon {epsilon:g} in {steps} steps", "raise --epsilon") from error
    return float(found)


def descend(learner: Learner, examples: Examples, settings: FitSettings, share: float, multiplier: float) -> Tensor:
    """Logits [R,H], by the mean of those that the last half of the steps came to.

    `share` is the chance of each image to be in a step; for the multiplier of the noise see `noise_multiplier`.
    """
    draws = torch.Generator().manual_seed(secrets.randbits(32))  # it keeps no more
    chosen = np.random.Generator(np.random.Philox(secrets.randbits(128)))  # who is seen in a step is a secret
    logits_RH = learner.start().requires_grad_()
    optimizer = torch.optim.Adam([logits_RH], lr=settings.learning_rate, betas=(0.9, 0.99))
    mean_RH = torch.zeros_like(logits_RH, requires_grad=False)
    with Progress("learn", settings.steps, unit="step") as progress:
        for step in range(settings.steps):
            rows_B = torch.from_numpy(np.flatnonzero(chosen.random(len(examples.classes)) < share))
            sum_RH = image_sum(learner, examples, logits_RH.detach(), rows_B, draws)
            noise_RH = torch.from_numpy(multiplier * gaussian(*sum_RH.shape)).to(sum_RH)
            optimizer.param_groups[0]["lr"] = settings.rate_at(step)
            logits_RH.grad = (sum_RH + noise_RH) / settings.batch_size
            optimizer.step()
            if step >= settings.steps // 2:
                mean_RH += logits_RH.detach() / (settings.steps - settings.steps // 2)
            progress.advance(1)
    return mean_RH


def image_sum(
    learner: Learner, examples: Examples, logits_RH: Tensor, rows_B: Tensor, draws: torch.Generator
) -> Tensor:
    """The sum [R,H] of what each image of a step adds; each has logits of its own, so no part depends on another."""
    if not len(rows_B):
        return torch.zeros_like(logits_RH)
    device = logits_RH.device
    logits_BRH = logits_RH.expand(len(rows_B), -1, -1).clone().requires_grad_()
    data_BCHW = examples.latents[rows_B].to(device)
    noise_BCHW = torch.randn(data_BCHW.shape, generator=draws).to(device)
    t_B = torch.rand(len(rows_B), generator=draws).sqrt().to(device)
    text_BLD = learner.inventory(learner.prompts[examples.classes[rows_B].to(device)], logits_BRH)
    text_BLE = learner.generator.projection(text_BLD)
    errors_BCHW = squared_errors(learner.generator, learner.task, text_BLE, data_BCHW, noise_BCHW, t_B)
    (own_BRH,) = torch.autograd.grad(errors_BCHW.flatten(1).mean(1).sum(), logits_BRH)
    own_BRH = own_BRH.nan_to_num(0.0, 0.0, 0.0)  # what is no number would show itself in the sum
    norm_B = own_BRH.flatten(1).norm(dim=1)
    total_RH: Tensor = (own_BRH / (norm_B + SMALL)[:, None, None]).sum(0)
    return total_RH
