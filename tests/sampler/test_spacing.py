"""Placed steps against what was published and against arithmetic."""

import numpy as np
import pytest
from diffusers import DDIMScheduler
from diffusers.schedulers import AysSchedules

from fglfast.sampler.spacing import OF_STABLE_DIFFUSION, align_your_steps, aligned_levels, trailing


@pytest.mark.parametrize(("xl", "kind"), [(False, "StableDiffusion"), (True, "StableDiffusionXL")])
def test_ten_steps_are_the_published_ones(xl, kind):
    assert list(align_your_steps(OF_STABLE_DIFFUSION, 10, xl)) == AysSchedules[f"{kind}Timesteps"]
    assert aligned_levels(10, xl) == pytest.approx(AysSchedules[f"{kind}Sigmas"][:-1], rel=0.02)


def test_other_counts_lie_between_the_eleven_published_levels():
    """The authors' loglinear_interp of their eleven levels to one more than the steps, whose last is left out."""
    published = [14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092]
    published += [0.9642583904, 0.6523686016, 0.3977456272, 0.1515232662, 0.0291671582]
    for steps in (4, 15, 20):
        wanted = np.exp(np.interp(np.linspace(0, 1, steps + 1), np.linspace(0, 1, 11), np.log(published)))
        assert aligned_levels(steps, xl=False) == pytest.approx(wanted[:-1], rel=1e-4)
    assert align_your_steps(OF_STABLE_DIFFUSION, 5, xl=False) == (999, 736, 545, 343, 124)


def test_on_another_noise_schedule_the_levels_stay():
    linear = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
    alphas = DDIMScheduler(**linear).alphas_cumprod.double().numpy()
    sigmas = np.sqrt((1 - alphas) / alphas)
    found = align_your_steps(linear, 10, xl=False)
    assert found[0] == 999 and sigmas[list(found[1:])] == pytest.approx(aligned_levels(10, False)[1:], rel=0.05)


def test_trailing_steps_begin_at_the_last_timestep():
    assert trailing(1000, 1) == (999,) and trailing(1000, 4) == (999, 749, 499, 249)
    assert trailing(1000, 3) == (999, 666, 332) and trailing(50, 50) == tuple(range(49, -1, -1))
