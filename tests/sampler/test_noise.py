"""Solvers that draw noise are refused by name; those that do not, in as many steps as are asked, are not."""

import json
import shutil

import pytest
import torch

from fglfast.base.errors import BadInputError
from fglfast.sampler.schedule import CONFIG, Sampling, Schedule

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
DRAW = {
    "EulerAncestralDiscreteScheduler": {},
    "DDPMScheduler": {},
    "LCMScheduler": {},
    "TCDScheduler": {},
    "DPMSolverMultistepScheduler": {"algorithm_type": "sde-dpmsolver++"},
}
DO_NOT = (
    "DDIMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "UniPCMultistepScheduler",
    "HeunDiscreteScheduler",
)


@pytest.fixture
def model(random_mini, tmp_path):
    """Make the random model with another scheduler."""

    def make(name, **keys):
        folder = tmp_path / "model"
        shutil.copytree(random_mini, folder, dirs_exist_ok=True)
        (folder / CONFIG).write_text(json.dumps({"_class_name": name, **BETAS, **keys}))
        return folder

    return make


@pytest.mark.parametrize("name", DRAW)
def test_what_draws_noise_is_refused_by_name(name, model):
    with pytest.raises(BadInputError) as refused:
        Schedule.of_model(model(name, **DRAW[name]), Sampling(steps=4))
    assert name in refused.value.message and "ddim" in refused.value.hint and refused.value.exit_code == 4
    assert (
        Schedule.of_model(model(name, **DRAW[name]), Sampling(steps=4, scheduler="ddim")).scheduler == "DDIMScheduler"
    )


def test_a_flow_model_is_told_of_a_solver_of_flows(model):
    with pytest.raises(BadInputError) as refused:
        Schedule.of_model(model("FlowMatchLCMScheduler"), Sampling(steps=4))
    assert "flow-euler" in refused.value.hint


@pytest.mark.parametrize("name", DO_NOT)
def test_what_draws_none_is_taken(name, model):
    assert Schedule.of_model(model(name), Sampling(steps=4)).scheduler == name


def test_one_step_draws_no_noise(model):
    """As turbo models are sampled."""
    folder = model("EulerAncestralDiscreteScheduler", timestep_spacing="trailing")
    assert Schedule.of_model(folder, Sampling(steps=1)).start().timesteps.tolist() == [999]


def test_finding_out_leaves_other_draws_alone(model):
    folder = model("DDPMScheduler")
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    with pytest.raises(BadInputError):
        Schedule.of_model(folder, Sampling(steps=4))
    assert torch.equal(torch.randn(3), expected)
