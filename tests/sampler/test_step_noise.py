"""Solvers that draw noise are given it, an image's own; what cannot be given is refused."""

import json
import shutil

import diffusers
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler

from fglfast.base.errors import BadInputError
from fglfast.generator.kinds import INDEX
from fglfast.generator.scheduler import CONFIG
from fglfast.sampler.sample import sample
from fglfast.sampler.schedule import Sampling, Schedule

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
DRAW = {
    "EulerAncestralDiscreteScheduler": {},
    "DDPMScheduler": {},
    "LCMScheduler": {},
    "DPMSolverMultistepScheduler": {"algorithm_type": "sde-dpmsolver++"},
    "KDPM2AncestralDiscreteScheduler": {},
    "SASolverScheduler": {},
}
DO_NOT = (
    "DDIMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "UniPCMultistepScheduler",
    "HeunDiscreteScheduler",
    "TCDScheduler",  # as diffusers' pipelines ask it, without noise of its own
)


@pytest.fixture
def model(random_mini, tmp_path):
    """Make the random model with another scheduler."""

    def make(name, **keys):
        folder = tmp_path / "model"
        shutil.copytree(random_mini, folder, dirs_exist_ok=True)
        (folder / CONFIG).write_text(json.dumps({"_class_name": name, **BETAS, **keys}))
        index = json.loads((folder / INDEX).read_text()) | {"scheduler": ["diffusers", name]}
        (folder / INDEX).write_text(json.dumps(index))
        return folder

    return make


class OwnWay(EulerAncestralDiscreteScheduler):
    """A solver with noise that nobody can give it."""

    def step(self, model_output, timestep, sample, generator=None, return_dict=True):
        return super().step(model_output + torch.rand_like(sample), timestep, sample, generator, return_dict)


class OtherShape(EulerAncestralDiscreteScheduler):
    """A solver that draws a number an image."""

    def step(self, model_output, timestep, sample, generator=None, return_dict=True):
        sample = sample + torch.randn(len(sample), 1, 1, 1)
        return super().step(model_output, timestep, sample, generator, return_dict)


def sampled(schedule, noise, fresh=None):
    return sample(lambda x, t, _: 0.3 * x, noise, torch.zeros(len(noise), 1, 1), torch.zeros(1, 1), schedule, fresh)


@pytest.mark.parametrize("name", DRAW)
def test_each_image_gets_the_noise_it_is_given_at_each_step(name, model):
    """Two images beside each other or in other company: the same bits; other noise at one step: another image."""
    schedule = Schedule.of_model(model(name, **DRAW[name]), Sampling(steps=4, guidance_scale=1.0))
    steps = torch.randn(8, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    asked = []

    def fresh(number):
        asked.append(number)
        return steps[number]

    ours = sampled(schedule, steps[0], fresh)
    assert asked == list(range(1, len(asked) + 1)) and len(asked) >= 3
    swapped = sampled(schedule, steps[0, [2, 0]], lambda number: steps[number, [2, 0]])
    assert torch.equal(swapped, ours[[2, 0]])
    other = sampled(schedule, steps[0], lambda number: steps[number + (number == 2)])
    assert not torch.isclose(other, ours).flatten(1).all(1).any()


def test_without_noise_of_its_own_a_batch_is_still_drawn_alike(model):
    """One row at a time, or all at once, as the gate does."""
    schedule = Schedule.of_model(model("EulerAncestralDiscreteScheduler"), Sampling(steps=3, guidance_scale=1.0))
    noise = torch.randn(3, 4, 2, 2)
    torch.manual_seed(1)
    together = sampled(schedule, noise)
    torch.manual_seed(2)
    assert torch.equal(torch.cat([sampled(schedule, row[None]) for row in noise]), together)


@pytest.mark.parametrize("solver", [OwnWay, OtherShape])
def test_noise_that_cannot_be_given_is_refused(solver, model, monkeypatch):
    monkeypatch.setattr(diffusers, "EulerAncestralDiscreteScheduler", solver)
    with pytest.raises(BadInputError) as refused:
        Schedule.of_model(model("EulerAncestralDiscreteScheduler"), Sampling(steps=4))
    assert refused.value.exit_code == 4 and CONFIG.split("/")[-1] in refused.value.message
    assert Schedule.of_model(model("EulerAncestralDiscreteScheduler"), Sampling(steps=4, scheduler="ddim")).steps == 4


@pytest.mark.parametrize("name", DO_NOT)
def test_what_draws_none_is_taken(name, model):
    assert Schedule.of_model(model(name), Sampling(steps=4)).scheduler == name


@pytest.mark.parametrize("name", ["TCDScheduler", "DDIMScheduler"])
def test_steps_add_as_little_noise_as_those_of_the_pipelines(name, model):
    schedule = Schedule.of_model(model(name), Sampling(steps=4, guidance_scale=1.0))
    x = noise = torch.randn(2, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    scheduler = schedule.start()
    for timestep in scheduler.timesteps:
        x = scheduler.step(0.3 * x, timestep, x, eta=0.0, return_dict=False)[0]
    assert torch.equal(sampled(schedule, noise, lambda _: pytest.fail("noise was asked for")), x)


def test_one_step_draws_no_noise(model):
    """As turbo models are sampled."""
    folder = model("EulerAncestralDiscreteScheduler", timestep_spacing="trailing")
    assert Schedule.of_model(folder, Sampling(steps=1)).start().timesteps.tolist() == [999]


def test_finding_out_leaves_other_draws_alone(model):
    folder = model("DDPMScheduler")
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    Schedule.of_model(folder, Sampling(steps=4))
    assert torch.equal(torch.randn(3), expected)
