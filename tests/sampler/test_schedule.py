"""Every solver against the exact solution of a flow, or a diffusion, of a single known point."""

import json
import math
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler
from diffusers.utils import dummy_torch_and_torchsde_objects

from fglfast.base.errors import BadInputError, UsageError
from fglfast.generator.scheduler import CONFIG
from fglfast.sampler.sample import sample
from fglfast.sampler.schedule import Sampling, Schedule
from fglfast.sampler.solver import SOLVERS

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
        alpha = torch.from_numpy(np.interp(t.numpy(), range(1000), alphas.double().numpy())).float().view(-1, 1, 1, 1)
        return (x - alpha.sqrt() * POINT) / (1 - alpha).sqrt()

    found = solve(noise_model, noise_in, steps=20, scheduler=scheduler)
    assert torch.allclose(found, torch.full_like(found, POINT), atol=0.1)


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_solvers_of_edm_reach_the_only_data_point(tmp_path, name):
    """All data at one point c: the network says what its preconditioning leaves of c (arXiv 2206.00364, table 1)."""
    model = folder_with({"_class_name": name, "prediction_type": "epsilon", **EDM}, tmp_path)

    def network(x, t, _):
        sigma = torch.exp(4 * t).view(-1, 1, 1, 1)
        spread = (sigma.square() + 0.25).sqrt()
        return (POINT - 0.25 / spread.square() * x * spread) / (sigma * 0.5 / spread)

    found = solve(model, network, steps=20)
    assert torch.allclose(found, torch.full_like(found, POINT), atol=0.02)


@pytest.mark.parametrize("scheduler", ["dpmsolver++", "euler"])
@pytest.mark.parametrize("steps", [1, 2, 4, 10, 61, 300, 1000])
@pytest.mark.parametrize("spacing", ["ays", "trailing"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_placed_steps_are_as_many_as_asked_and_begin_where_all_is_noise(
    noise_model, tmp_path, scheduler, steps, spacing, zero_snr
):
    config = json.loads((noise_model / CONFIG).read_text()) | {"rescale_betas_zero_snr": zero_snr}
    asked = Sampling(steps=steps, scheduler=scheduler, spacing=spacing)
    schedule = Schedule.of_model(folder_with(config, tmp_path), asked)
    taken = schedule.start().timesteps.tolist()
    assert len(taken) == steps and taken[0] == 999 and taken[-1] >= 0
    assert all(later < earlier for earlier, later in pairwise(taken))


def folder_with(config, folder):
    """A model folder as far as schedules read it."""
    for name, content in (("scheduler/scheduler_config.json", config), ("unet/config.json", {})):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def test_what_would_place_the_steps_otherwise_gives_way(noise_model, tmp_path):
    """As many DPM++ 2M Karras folders have it."""
    config = json.loads((noise_model / CONFIG).read_text())
    karras = config | {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}
    schedule = Schedule.of_model(
        folder_with(karras, tmp_path), Sampling(steps=4, scheduler="euler", spacing="trailing")
    )
    assert schedule.start().timesteps.tolist() == [999, 749, 499, 249]


@pytest.mark.parametrize(
    ("config", "asked"),
    [
        ({"timestep_spacing": "trailing"}, {"steps": 61, "scheduler": "ddim"}),  # diffusers takes 62, the last at -1
        ({"timestep_spacing": "trailing"}, {"steps": 61, "scheduler": "unipc"}),
        ({}, {"steps": 1000, "scheduler": "dpmsolver++"}),  # all at one timestep
        ({"num_train_timesteps": 100}, {"steps": 101, "scheduler": "euler"}),
    ],
)
def test_numbers_of_steps_that_diffusers_would_change_are_refused(noise_model, tmp_path, config, asked):
    config = json.loads((noise_model / CONFIG).read_text()) | config
    with pytest.raises(UsageError, match=str(asked["steps"])):
        Schedule.of_model(folder_with(config, tmp_path), Sampling(**asked))


@pytest.mark.parametrize("scheduler", ["ddim", "dpmsolver++", "unipc", "euler"])
def test_solvers_take_the_steps_asked_for(noise_model, scheduler):
    for steps in (1, 2, 3, 7, 20, 50, 61, 500):
        assert len(Schedule.of_model(noise_model, Sampling(steps=steps, scheduler=scheduler)).rows()) == steps


@pytest.mark.parametrize(
    "asked", [{"scheduler": "ddim"}, {"scheduler": "euler"}, {"scheduler": "dpmsolver++", "spacing": "ays"}]
)
def test_what_does_not_fit_a_flow_model_is_refused(random_mini, asked):
    with pytest.raises(UsageError):
        Schedule.of_model(random_mini, Sampling(**asked))


def test_what_does_not_fit_a_noise_model_is_refused(noise_model):
    with pytest.raises(UsageError, match="flow-euler"):
        Schedule.of_model(noise_model, Sampling(scheduler="flow-euler"))
    with pytest.raises(UsageError, match="ays"):
        Schedule.of_model(noise_model, Sampling(scheduler="ddim", spacing="ays"))


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_no_other_solver_asks_a_network_that_is_told_the_noise_itself(name, solver, tmp_path):
    model = folder_with({"_class_name": name, **UNITS[name]}, tmp_path)
    with pytest.raises(UsageError, match=rf"{solver.replace('+', '.')} does not solve .*{name}") as refused:
        Schedule.of_model(model, Sampling(steps=4, scheduler=solver))
    assert 'scheduler = "model"' in refused.value.hint
    for asked in ({"spacing": "ays"}, {"spacing": "trailing"}, {"timesteps": (900.0, 500.0, 300.0, 1.0)}):
        with pytest.raises(UsageError, match=name):
            Schedule.of_model(model, Sampling(steps=4, **asked))
    assert Schedule.of_model(model, Sampling(steps=4)).scheduler == name


def test_eulers_table_is_any_solvers_where_it_counts_in_it(noise_model, tmp_path):
    config = json.loads((noise_model / CONFIG).read_text()) | {"_class_name": "EulerDiscreteScheduler"}
    model = folder_with(config | {"timestep_type": "continuous"}, tmp_path)
    plain = folder_with(config, tmp_path / "plain")
    asked = Sampling(steps=4, scheduler="dpmsolver++")
    one, other = (Schedule.of_model(folder, asked).start().timesteps for folder in (model, plain))
    assert torch.equal(one, other)


def test_a_scheduler_of_a_package_that_is_not_installed_is_no_bar_to_another(noise_model, tmp_path, monkeypatch):
    monkeypatch.setattr("fglfast.generator.scheduler.find_spec", lambda name: None if name == "torchsde" else name)
    config = json.loads((noise_model / CONFIG).read_text()) | {"_class_name": "DPMSolverSDEScheduler"}
    monkeypatch.setattr("diffusers.DPMSolverSDEScheduler", dummy_torch_and_torchsde_objects.DPMSolverSDEScheduler)
    model = folder_with(config, tmp_path)
    with pytest.raises(BadInputError, match="DPMSolverSDEScheduler needs torchsde") as refused:
        Schedule.of_model(model, Sampling(steps=4))
    assert "scheduler = " in refused.value.hint and "scheduler_config" in refused.value.message
    assert Schedule.of_model(model, Sampling(steps=4, scheduler="dpmsolver++")).steps == 4


@pytest.mark.parametrize(("solver", "own"), [("lcm", "EulerDiscreteScheduler"), ("model", "TCDScheduler")])
def test_more_steps_than_a_consistency_was_trained_on_are_the_recipes_fault(solver, own, noise_model, tmp_path):
    config = json.loads((noise_model / CONFIG).read_text()) | {"_class_name": own}
    model = folder_with(config, tmp_path)
    assert Schedule.of_model(model, Sampling(steps=50, scheduler=solver)).steps == 50
    with pytest.raises(UsageError, match=r"60 steps .*50") as refused:
        Schedule.of_model(model, Sampling(steps=60, scheduler=solver))
    assert "scheduler_config" not in refused.value.message and "50" in refused.value.hint
    folder_with(config | {"original_inference_steps": 60}, tmp_path)
    if solver == "model" or own == "LCMScheduler":
        assert Schedule.of_model(model, Sampling(steps=60, scheduler=solver)).steps == 60


def test_an_interval_that_guides_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"guidance_interval\n.*\[0.2, 0.8\]"):
        Sampling(guidance_interval=(0.8, 0.2))
    with pytest.raises(UsageError, match=r"guidance_interval: .*\[0.2, 0.8\]"):
        Sampling().changed(guidance_interval=(0.8, 0.2))
    (tmp_path / "r.toml").write_text("guidance_interval = [0.8, 0.2]\n")
    with pytest.raises(BadInputError, match="guidance_interval"):
        Sampling.from_toml(tmp_path / "r.toml")


def test_a_broken_scheduler_config_is_named(noise_model, tmp_path):
    for content in ("", "[]", json.dumps({"_class_name": "Nothing"})):
        (tmp_path / "scheduler").mkdir(exist_ok=True)
        (tmp_path / "scheduler" / "scheduler_config.json").write_text(content)
        with pytest.raises(BadInputError, match="scheduler_config"):
            Schedule.of_model(tmp_path, Sampling())


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_a_scale_of_one_or_less_is_unguided(scale, random_mini):
    """At 0 the empty prompt alone would be drawn, and labelled."""
    asked = Sampling(steps=3, guidance_scale=scale)
    assert asked == Sampling(steps=3, guidance_scale=2.0).changed(guidance_scale=scale) and asked.guidance_scale == 1.0
    assert [rows for _, rows in Schedule.of_model(random_mini, asked).rows()] == [1, 1, 1]


def test_guidance_interval():
    schedule = Schedule("DDIMScheduler", {}, 10, None, 3.0, (0.2, 0.8))
    assert [schedule.guides(t) for t in (900.0, 800.0, 500.0, 200.0, 100.0)] == [False, True, True, True, False]
    assert not Schedule("DDIMScheduler", {}, 10, None, 1.0, (0.0, 1.0)).guides(500.0)


EDM = {"num_train_timesteps": 1000, "sigma_data": 0.5, "sigma_max": 80.0, "sigma_min": 0.002}
UNITS = {  # every unit of time that diffusers' schedulers have
    "EDMEulerScheduler": EDM,
    "EDMDPMSolverMultistepScheduler": EDM,
    "IPNDMScheduler": {},
    "EulerDiscreteScheduler": {"timestep_type": "continuous", "prediction_type": "v_prediction"},
    "FlowMatchEulerDiscreteScheduler": {"shift": 3.0},
    "DDIMScheduler": {},
    "PNDMScheduler": {"skip_prk_steps": True},
    "HeunDiscreteScheduler": {},
}


@pytest.mark.parametrize("name", UNITS)
def test_an_interval_is_a_share_of_the_noise_in_every_unit(tmp_path, name):
    model = folder_with({"_class_name": name, **UNITS[name]}, tmp_path)

    def guided(interval):
        rows = Schedule.of_model(model, Sampling(steps=25, guidance_scale=3.0, guidance_interval=interval)).rows()
        return [count == 2 for _, count in rows]

    assert all(guided((0.0, 1.0)))
    noisy, clean = guided((0.5, 1.0)), guided((0.0, 0.5))
    assert noisy[0] and not noisy[-1] and clean[-1] and not clean[0]
    assert sorted(noisy, reverse=True) == noisy and sorted(clean) == clean
    assert all(one or other for one, other in zip(noisy, clean, strict=True))


def test_shares_of_edm_are_of_the_logarithm_of_sigma(tmp_path):
    model = folder_with({"_class_name": "EDMEulerScheduler", **EDM}, tmp_path)
    schedule = Schedule.of_model(model, Sampling(steps=5, guidance_scale=2.0, guidance_interval=(0.25, 0.75)))
    at = {share: 0.25 * math.log(0.002 * (80 / 0.002) ** share) for share in (0.24, 0.26, 0.74, 0.76)}
    assert [schedule.guides(timestep) for timestep in at.values()] == [False, True, True, False]


@pytest.mark.parametrize("steps", [1, 5, 25])
def test_shares_of_continuous_steps_are_of_those_steps(steps, tmp_path):
    """As in video diffusion, whose noise reaches far beyond what its table would say: sigma to 700, and not to 157."""
    reach = {"use_karras_sigmas": True, "sigma_min": 0.002, "sigma_max": 700.0}
    name = "EulerDiscreteScheduler"
    model = folder_with({"_class_name": name, **UNITS[name], **reach}, tmp_path)
    schedule = Schedule.of_model(model, Sampling(steps=steps, guidance_scale=2.0, guidance_interval=(0.25, 0.75)))
    least, most = (0.25 * math.log(sigma) for sigma in (0.002, 700.0))
    assert schedule.span == pytest.approx((least, most), abs=1e-5)
    at = [least + share * (most - least) for share in (0.24, 0.26, 0.74, 0.76)]
    assert [schedule.guides(timestep) for timestep in at] == [False, True, True, False]


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


def test_steps_that_begin_elsewhere_than_the_noise_are_refused(random_mini, noise_model):
    """All data at one point: a tenth of the noise would stay, were a flow begun at 0.9 of it."""
    with pytest.raises(UsageError, match="begin at 900"):
        Schedule.of_model(random_mini, Sampling(steps=2, scheduler="flow-euler", timesteps=(900.0, 300.0)))
    with pytest.raises(UsageError, match="999"):
        Schedule.of_model(noise_model, Sampling(steps=2, scheduler="euler", timesteps=(1000.0, 300.0)))
    with pytest.raises(UsageError, match="1 of them different"):
        Schedule.of_model(noise_model, Sampling(steps=2, scheduler="euler", timesteps=(900.2, 899.9)))


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
