"""Whether a solver of diffusers draws noise on its way, found by trying. Knows no model and no solver's name."""

from collections.abc import Callable
from typing import Any

import torch


def draws_noise(start: Callable[[], Any]) -> bool:
    """Whether two runs from the same place end in two places: such images are not their identity's own.

    Args:
        start: makes the solver at its first step.
    """
    ends = []
    with torch.random.fork_rng(devices=[]):  # the caller's draws stay what they are
        for _ in range(2):
            scheduler, x = start(), torch.ones(1, 4, 2, 2)
            for timestep in scheduler.timesteps:
                scaled = scheduler.scale_model_input(x, timestep) if hasattr(scheduler, "scale_model_input") else x
                x = scheduler.step(0.5 * scaled, timestep, x, return_dict=False)[0]
            ends.append(x)
    return not torch.allclose(ends[0], ends[1], rtol=0.0, atol=0.0, equal_nan=True)
