"""What an engine is held against: diffusers' own pipeline, by the recipe's solver, or why it cannot be."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from fglfast.base.errors import BadInputError, FglError
from fglfast.engine import export as exporting
from fglfast.engine import trajectory
from fglfast.engine.export import export
from fglfast.engine.exported import Route
from fglfast.engine.manifest import read_manifest
from fglfast.engine.parity import measure, require
from fglfast.engine.trajectory import OURS, Reference
from fglfast.engine.yardstick import NOTHING
from fglfast.generator.kinds import INDEX
from fglfast.generator.latents import LatentSpace
from fglfast.generator.load import load_generator, read_shapes
from fglfast.sampler.schedule import Sampling
from fglfast.verbs.app import app

NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
PLAYGROUND = {
    "scaling_factor": 0.5,
    "latents_mean": [-1.6574, 1.886, -1.383, 2.5155],
    "latents_std": [8.4927, 5.9022, 6.5498, 5.2299],
}
SHIFT = {"scaling_factor": 0.3611, "shift_factor": 0.1159}


@pytest.fixture
def changed(tmp_path):
    """Make a copy of a model folder with other keys in the configs of VAE and scheduler."""

    def make(folder, vae=None, scheduler=None):
        copy = tmp_path / "model"
        shutil.copytree(folder, copy)
        config = copy / "vae" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | (vae or {})))
        if scheduler:
            (copy / "scheduler" / "scheduler_config.json").write_text(json.dumps(NOISE | scheduler))
            index = json.loads((copy / INDEX).read_text()) | {"scheduler": ["diffusers", scheduler["_class_name"]]}
            (copy / INDEX).write_text(json.dumps(index))
        return copy

    return make


def sampled(model, side, steps=3, **asked):
    reference = Reference(model, read_shapes(model, side), Sampling(steps=steps, **asked))
    return reference.trajectory(("", "a bag"), steps, seed=0)


CASES = {
    "plain": ({}, {}, {}, "StableDiffusionXLPipeline"),
    "Playground's VAE": (PLAYGROUND, {}, {}, "StableDiffusionXLPipeline"),
    "EDM": ({}, {"_class_name": "EDMDPMSolverMultistepScheduler"}, {}, "StableDiffusionXLPipeline"),
    "the recipe's solver": ({}, {"_class_name": "LCMScheduler"}, {"scheduler": "euler"}, "StableDiffusionXLPipeline"),
    "TCD": ({}, {"_class_name": "TCDScheduler"}, {}, "StableDiffusionXLPipeline"),
    "a shift that the pipeline ignores": (SHIFT, {}, {}, OURS),
    "timesteps of its own": ({}, {}, {"scheduler": "euler", "timesteps": (900, 500, 20)}, OURS),
    "a flow without initial noise": ({}, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, {}, OURS),
}


@pytest.mark.parametrize("case", CASES)
def test_who_samples_the_reference(case, changed, shallow, uncompiled):
    vae, scheduler, asked, by = CASES[case]
    model = changed(shallow("sdxl"), vae, scheduler)
    run = sampled(model, 64, **asked)
    assert run.by == by and len(run.inputs) == len(run.outputs) == 3
    parity = measure(uncompiled(load_generator(model)), run, NOTHING, "float32")
    assert parity.problem() == "" and parity.psnr > 90, parity


@pytest.mark.parametrize("own_timesteps", [False, True], ids=["pipeline", "ours"])
def test_weights_are_loaded_once_and_stay_as_they_are(own_timesteps, random_mini, tmp_path, monkeypatch):
    """Sampled, exported by a route that fuses and narrows, and sampled again."""
    loads, load_modules = [], trajectory.load_modules
    monkeypatch.setattr(trajectory, "load_modules", lambda model: loads.append(model) or load_modules(model))
    monkeypatch.setattr(exporting, "export_one", lambda network, *_: exported.append(network))
    exported = []
    asked = {"scheduler": "flow-euler", "timesteps": (1000, 500)} if own_timesteps else {}
    shapes = read_shapes(random_mini, 32)
    reference = Reference(random_mini, shapes, Sampling(steps=2, **asked))
    before = reference.trajectory(("", "a bag"), 2, seed=0)
    modules = [str(part) for part in vars(reference.generator()).values()]
    export(reference.generator(), shapes, tmp_path, Route(fused=True, precision="bfloat16"))
    assert {p.dtype for network in exported[2:] for p in network.parameters()} == {torch.bfloat16}
    assert [str(part) for part in vars(reference.generator()).values()] == modules
    after = reference.trajectory(("", "a bag"), 2, seed=0)
    assert torch.equal(before.images, after.images) and len(before.inputs) == len(after.inputs) == 2
    assert (before.by == OURS) == own_timesteps and loads == [random_mini]


def test_the_gate_sees_a_decoder_that_leaves_out_the_mean(changed, shallow, monkeypatch, uncompiled):
    model = changed(shallow("sdxl"), PLAYGROUND)
    monkeypatch.setattr(LatentSpace, "to_vae", lambda space, latents: latents / space.scale)
    parity = measure(uncompiled(load_generator(model)), sampled(model, 64), NOTHING, "float32")
    assert parity.vae_decoder > 0.01
    with pytest.raises(FglError, match="VAE decoder"):
        require(parity, "engine")


def test_a_solver_that_draws_noise_is_given_the_same_each_time(changed, random_mini):
    turbo = {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
    model = changed(random_mini, scheduler=turbo)
    one, other = (Reference(model, read_shapes(model, 32), Sampling(steps=1)).trajectory(("",), 8, 0) for _ in range(2))
    assert len(one.inputs) == 8 and one.schedule.scheduler == turbo["_class_name"]
    assert torch.equal(one.images, other.images)


def test_what_is_not_finite_is_named(changed, random_mini):
    """Zero terminal SNR: what predicts noise says nothing of the data there."""
    solver = {"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    model = changed(random_mini, scheduler=solver)
    with pytest.raises(BadInputError, match="DDIMScheduler") as refused:
        sampled(model, 32)
    assert refused.value.exit_code == 4
    sampled(model, 32, scheduler="euler")
    weights = next((model / "unet").glob("*.safetensors"))
    tensors = load_file(weights)
    save_file({name: torch.full_like(tensor, torch.nan) for name, tensor in tensors.items()}, weights, {"format": "pt"})
    with pytest.raises(BadInputError, match="UNet") as refused:
        sampled(model, 32, scheduler="euler")
    assert "DDIM" not in refused.value.message


def test_a_model_whose_own_scheduler_draws_noise_passes_the_gate(changed, random_mini, tmp_path):
    model, recipe = changed(random_mini, scheduler={"_class_name": "DDPMScheduler"}), tmp_path / "r.toml"
    recipe.write_text(
        f'model = "{model}"\nbackend = "torch"\nprecision = "float32"\nimage_size = 32\nunet_batch = 4\nvae_batch = 4\n'
        "[sampling]\nsteps = 12\n"
    )
    ended = CliRunner().invoke(app, ["build-engine", "--recipe", str(recipe), "--engines", str(tmp_path / "engines")])
    assert ended.exit_code == 0, ended.output
    (built,) = tmp_path.glob("engines/*/manifest.json")
    found = read_manifest(built.parent)
    assert found.reference == "StableDiffusionPipeline" and found.parity.psnr > 60


def test_a_mean_and_a_deviation_that_the_pipeline_ignores(changed, random_mini):
    assert sampled(changed(random_mini, {"latents_mean": [0.5] * 8, "latents_std": [2.0] * 8}), 32).by == OURS
