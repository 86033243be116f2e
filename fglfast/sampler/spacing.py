"""Where a noise model's steps lie, as whole timesteps: Align Your Steps, and even ones from the last."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fglfast.generator.scheduler import scheduler_class

OF_STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def trailing(levels: int, steps: int) -> tuple[int, ...]:
    """Even steps, no more than levels, that begin at a model's last timestep (arXiv 2305.08891, section 3.3)."""
    return _whole(levels - np.arange(steps) * levels / steps - 1)


def align_your_steps(config: dict[str, Any], steps: int, xl: bool) -> tuple[int, ...]:
    """Align Your Steps on the noise schedule of a config; the first is its last timestep, where all is noise.

    There are no more steps than it has noise levels.
    """
    sigmas = _sigmas(config, without_last=True)  # which is the first step's, and infinite at zero terminal SNR
    timesteps = np.interp(np.log(aligned_levels(steps, xl)), np.log(sigmas), np.arange(len(sigmas)))
    timesteps[0] = len(sigmas)
    return _whole(timesteps)


def aligned_levels(steps: int, xl: bool) -> NDArray[np.float64]:
    """The noise levels, sigma of x0 + sigma e, at which Align Your Steps has a network asked [steps].

    The eleven that were published (Sabour et al., arXiv 2404.14507, table 3) begin ten steps and end the last. For
    other numbers of steps they are interpolated log-linearly, as the authors' quickstart guide does; the last step
    goes on to no noise.
    """
    from diffusers.schedulers import AysSchedules

    timesteps = [*AysSchedules["StableDiffusionXLTimesteps" if xl else "StableDiffusionTimesteps"], 0]
    published = np.log(_sigmas(OF_STABLE_DIFFUSION)[timesteps])  # AysSchedules' own are rounded
    places = np.linspace(0, len(published) - 1, steps + 1)[:-1]
    return np.exp(np.interp(places, np.arange(len(published)), published))


def _sigmas(config: dict[str, Any], without_last: bool = False) -> NDArray[np.float64]:
    scheduler = scheduler_class("DDIMScheduler").from_config(config)
    alphas = scheduler.alphas_cumprod.double().numpy()[: -1 if without_last else None]
    sigmas: NDArray[np.float64] = np.sqrt((1 - alphas) / alphas)
    return sigmas


def _whole(timesteps: NDArray[np.float64]) -> tuple[int, ...]:
    """Descending timesteps, rounded, no two of them equal: those after move on, or those before if none is left."""
    order = np.arange(len(timesteps))
    distinct = np.minimum.accumulate(timesteps.round() + order) - order
    return tuple(np.maximum(distinct, order[::-1]).astype(int).tolist())
