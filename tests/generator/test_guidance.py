"""Latent consistency models, whose UNet is told the guidance scale: narrow, with random weights."""

import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline, LatentConsistencyModelPipeline, UNet2DConditionModel

from fglfast.base.errors import BadInputError
from fglfast.engine.family import takes_few_steps
from fglfast.engine.recipe import Recipe
from fglfast.engine.trajectory import OURS, Reference
from fglfast.generator.guidance import scale_embedding
from fglfast.generator.load import load_generator, load_modules, read_shapes
from fglfast.generator.text import text_fingerprint
from fglfast.generator.text_encoder import TextEncoder
from fglfast.sampler.sample import sample
from fglfast.sampler.schedule import Sampling, Schedule
from fglfast.sampler.step_noise import Given, numbered


@pytest.fixture
def consistent(shallow, tmp_path, monkeypatch):
    """A folder as such models are published."""
    monkeypatch.setenv("FGLFAST_MODELS", str(tmp_path / "made"))
    folder = tmp_path / "lcm"
    shutil.copytree(shallow("sd15"), folder)
    config = UNet2DConditionModel.load_config(folder / "unet") | {"time_cond_proj_dim": 32}
    torch.manual_seed(1)
    UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "LatentConsistencyModelPipeline", "scheduler": ["diffusers", "LCMScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    solver = {"_class_name": "LCMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(solver))
    return folder


@pytest.mark.parametrize("scale", [1.0, 8.5])
def test_the_folded_network_is_the_one_that_is_told_the_scale(consistent, scale):
    folder = Recipe(model=str(consistent), image_size=64, embedded_guidance=scale).model_folder()
    told = UNet2DConditionModel.from_pretrained(consistent / "unet")
    folded, _ = load_modules(folder)
    latents, text = torch.randn(2, 4, 8, 8), torch.randn(2, 77, told.config.cross_attention_dim)
    condition = scale_embedding(scale, 32).expand(2, -1)
    with torch.no_grad():
        expected = told(latents, torch.tensor([900.0, 20.0]), text, timestep_cond=condition).sample
        found = folded(latents, torch.tensor([900.0, 20.0]), text).sample
        untold = told(latents, torch.tensor([900.0, 20.0]), text).sample
    assert torch.allclose(found, expected, atol=1e-5) and not torch.allclose(found, untold, atol=1e-3)
    assert text_fingerprint(folder) == text_fingerprint(consistent)


def test_the_embedding_is_that_of_diffusers_pipeline():
    theirs = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, torch.tensor([7.5]), 257)[0]
    assert torch.allclose(scale_embedding(8.5, 257), theirs.float(), atol=1e-3)


@pytest.mark.parametrize("pipeline", ["LatentConsistencyModelPipeline", "StableDiffusionPipeline"])
def test_it_draws_what_its_pipeline_draws_whatever_its_solver_clips(pipeline, consistent):
    index, solver = consistent / "model_index.json", consistent / "scheduler" / "scheduler_config.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": pipeline}))
    solver.write_text(json.dumps(json.loads(solver.read_text()) | {"clip_sample": True}))
    folder = Recipe(model=str(consistent), image_size=64, embedded_guidance=7.0).model_folder()
    generator, encoder, shapes = load_generator(folder), TextEncoder.load(folder), read_shapes(folder, 64)
    noise = torch.randn(1, *shapes.latent, generator=torch.Generator().manual_seed(0))
    stock = DiffusionPipeline.from_pretrained(consistent, torch_dtype=torch.float32)
    with Given(numbered(noise)):
        expected = stock(
            "a photograph",
            latents=noise,
            num_inference_steps=4,
            guidance_scale=7.0,
            height=64,
            width=64,
            output_type="latent",
        ).images
    text = generator.projection(torch.from_numpy(encoder.encode(encoder.tokenize(["a photograph"]))))
    asked = Sampling(steps=4, guidance_scale=1.0)
    found = sample(generator.unet, noise, text, text[0], Schedule.of_model(folder, asked))
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_an_engine_of_it_is_held_against_our_sampler_as_its_pipeline_is_told_a_scale(consistent):
    folder = Recipe(model=str(consistent), image_size=64).model_folder()
    reference = Reference(folder, read_shapes(folder, 64), Sampling(steps=2, guidance_scale=1.0))
    assert reference.trajectory(["a photograph"], 2, seed=0).by == OURS


def test_another_scale_is_another_model_and_the_raw_one_is_not_drawn_with(consistent):
    recipe = Recipe(model=str(consistent), image_size=64)
    first, again, other = (found.model_folder() for found in (recipe, recipe, recipe.changed(embedded_guidance=2.0)))
    assert first == again != other and takes_few_steps(first)
    with pytest.raises(BadInputError, match="guidance scale"):
        load_generator(consistent)
    assert Schedule.of_model(first, Sampling(steps=4, guidance_scale=1.0)).passes() == 4
