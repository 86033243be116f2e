"""Every solver against the exact solution of a flow, or a diffusion, of a single known point."""

import json
import shutil

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler

from fglfast.base.errors import BadInputError, UsageError
from fglfast.sampler.sample import sample
from fglfast.sampler.schedule import Sampling, Schedule

POINT = 0.7


@pytest.fixture(scope="module")
def noise_model(random_mini, tmp_path_factory):
    """The random model with the scheduler config of Stable Diffusion 1.5, whose UNet predicts noise."""
    folder = tmp_path_factory.mktemp("models") / "noise"
    shutil.copytree(random_mini, folder)
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    PNDMScheduler(**config, skip_prk_steps=True).save_pretrained(folder / "scheduler")
    return folder


def solve(model, denoiser, **asked):
    schedule = Schedule.of_model(model, Sampling(guidance_scale=1.0, **asked))
    noise = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    return sample(denoiser, noise, torch.zeros(4, 1, 1), torch.zeros(1, 1), schedule)


@pytest.mark.parametrize("scheduler", ["model", "dpmsolver++", "unipc", "flow-euler"])
def test_solvers_of_a_flow_reach_the_only_data_point(random_mini, scheduler):
    """All data at one point c: the velocity of the linear flow is (x - c) / t."""
    found = solve(
        random_mini, lambda x, t, _: (x - POINT) / (t.view(-1, 1, 1, 1) / 1000), steps=10, scheduler=scheduler
    )
    assert torch.allclose(found, torch.full_like(found, POINT), atol=0.02)


@pytest.mark.parametrize("scheduler", ["model", "ddim", "dpmsolver++", "unipc", "euler"])
def test_solvers_of_a_noise_model_reach_the_only_data_point(noise_model, scheduler):
    """All data at one point c: the noise in x is (x - alpha c) / sigma; Euler sees x scaled by its own factor."""
    alphas = DDIMScheduler.from_pretrained(noise_model / "scheduler").alphas_cumprod

    def noise_in(x, t, _):
        alpha = (
            torch.from_numpy(__import__("numpy").interp(t.numpy(), range(1000), alphas.double().numpy()))
            .float()
            .view(-1, 1, 1, 1)
        )
        return (x - alpha.sqrt() * POINT) / (1 - alpha).sqrt()

    found = solve(noise_model, noise_in, steps=20, scheduler=scheduler)
    assert torch.allclose(found, torch.full_like(found, POINT), atol=0.1)


def test_align_your_steps(noise_model):
    ten = Schedule.of_model(noise_model, Sampling(steps=10, scheduler="dpmsolver++", spacing="ays"))
    assert ten.timesteps == (999, 850, 736, 645, 545, 455, 343, 233, 124, 24)
    more = Schedule.of_model(noise_model, Sampling(steps=15, scheduler="euler", spacing="ays"))
    assert len(more.timesteps) == 15 and more.timesteps[0] == 999 and more.timesteps[-1] == 24
    assert list(more.timesteps) == sorted(more.timesteps, reverse=True)
    assert more.start().timesteps.long().tolist() == list(more.timesteps)


@pytest.mark.parametrize(
    "asked", [{"scheduler": "ddim"}, {"scheduler": "euler"}, {"scheduler": "dpmsolver++", "spacing": "ays"}]
)
def test_what_does_not_fit_a_flow_model_is_refused(random_mini, asked):
    with pytest.raises(UsageError):
        Schedule.of_model(random_mini, Sampling(**asked))


def test_what_does_not_fit_a_noise_model_is_refused(noise_model):
    with pytest.raises(UsageError, match="flow-euler"):
        Schedule.of_model(noise_model, Sampling(scheduler="flow-euler"))
    with pytest.raises(UsageError, match="AYS"):
        Schedule.of_model(noise_model, Sampling(scheduler="ddim", spacing="ays"))


def test_a_broken_scheduler_config_is_named(noise_model, tmp_path):
    for content in ("", "[]", json.dumps({"_class_name": "Nothing"})):
        (tmp_path / "scheduler").mkdir(exist_ok=True)
        (tmp_path / "scheduler" / "scheduler_config.json").write_text(content)
        with pytest.raises(BadInputError, match="scheduler_config"):
            Schedule.of_model(tmp_path, Sampling())


def test_guidance_interval():
    schedule = Schedule("DDIMScheduler", {}, 10, None, 3.0, (0.2, 0.8))
    assert [schedule.guides(t) for t in (900.0, 800.0, 500.0, 200.0, 100.0)] == [False, True, True, True, False]
    assert not Schedule("DDIMScheduler", {}, 10, None, 1.0, (0.0, 1.0)).guides(500.0)


def test_steps_may_be_placed_one_by_one(random_mini, noise_model):
    placed = Sampling(steps=3, scheduler="flow-euler", timesteps=(1000.0, 400.0, 50.0))
    schedule = Schedule.of_model(random_mini, placed)
    assert schedule.start().timesteps.tolist() == pytest.approx([1000.0, 400.0, 50.0])
    asked = []
    solve(
        random_mini, lambda x, t, _: asked.append(float(t[0])) or 0 * x, **placed.model_dump(exclude={"guidance_scale"})
    )
    assert asked == pytest.approx([1000.0, 400.0, 50.0])
    noise = Sampling(steps=2, scheduler="euler", timesteps=(999.0, 300.0))
    assert Schedule.of_model(noise_model, noise).start().timesteps.tolist() == [999, 300]
    with pytest.raises(UsageError, match="does not take timesteps"):
        Schedule.of_model(random_mini, Sampling(steps=2, timesteps=(1000.0, 500.0)))


@pytest.mark.parametrize("timesteps", [(1000.0,), (500.0, 900.0), (900.0, 0.0)])
def test_badly_placed_steps_are_refused(timesteps):
    with pytest.raises(ValueError, match="give 2, descending and above 0"):
        Sampling(steps=2, timesteps=timesteps)


def test_flow_euler_spends_no_step_where_the_path_ends(random_mini):
    scheduler = Schedule.of_model(random_mini, Sampling(steps=4, scheduler="flow-euler", guidance_scale=1.0)).start()
    assert scheduler.timesteps.tolist() == [1000, 750, 500, 250]


def test_other_steps_or_guidance_keep_the_rest_but_not_steps_placed_one_by_one():
    placed = Sampling(
        steps=2, scheduler="flow-euler", timesteps=(900.0, 300.0), guidance_scale=2.0, guidance_interval=(0.2, 0.8)
    )
    assert placed.changed() == placed.changed(steps=2) == placed
    assert placed.changed(guidance_scale=3.0) == placed.model_copy(update={"guidance_scale": 3.0})
    more = placed.changed(steps=3, guidance_interval=(0.0, 1.0))
    assert more == Sampling(steps=3, scheduler="flow-euler", guidance_scale=2.0)
    with pytest.raises(UsageError, match="guidance_scale"):
        placed.changed(guidance_scale=51.0)
