"""Stable Diffusion's families, narrow: our text, UNet and sampler against the stock pipelines."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel

from fglfast.client.embed import embed
from fglfast.engine.build import build_engine
from fglfast.engine.recipe import Recipe, find_recipe, shipped_recipes
from fglfast.generator.families import UNETS
from fglfast.generator.load import load_generator, read_shapes
from fglfast.generator.parts import BUNDLED
from fglfast.generator.text_encoder import TextEncoder
from fglfast.images.dataset import read_dataset
from fglfast.payload.merge import merge_payloads
from fglfast.sampler.sample import sample
from fglfast.sampler.schedule import Sampling, Schedule
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import synthesize

PROMPTS = ("a photograph", "low quality")


def both(folder, steps, guidance_scale, output_type):
    """What the stock pipeline draws, and our latents of the same noise by the networks of the folder."""
    shapes, generator, encoder = read_shapes(folder, 64), load_generator(folder), TextEncoder.load(folder)
    pipeline = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(2, *shapes.latent, generator=torch.Generator().manual_seed(0))
    theirs = pipeline(
        [PROMPTS[0]] * 2,
        negative_prompt=[PROMPTS[1]] * 2,
        latents=noise,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        height=64,
        width=64,
        output_type=output_type,
    ).images
    text = torch.from_numpy(encoder.encode(encoder.tokenize(PROMPTS)))
    assert text.shape == (2, shapes.text_length, shapes.text_width)
    schedule = Schedule.of_model(folder, Sampling(steps=steps, guidance_scale=guidance_scale))
    text = generator.projection(text)
    return theirs, sample(generator.unet, noise, text[:1].expand(2, -1, -1), text[1], schedule), generator


@pytest.mark.parametrize("family", list(UNETS))
def test_the_stock_pipeline_draws_the_same_latents(family, narrow):
    theirs, ours, _ = both(narrow(family), 4, 2.0, "latent")
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3)


NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
CASES = {
    "Euler's initial noise": ("sd15", {}, {"_class_name": "EulerDiscreteScheduler"}),
    "an old config": ("sd15", {}, {"_class_name": "DDIMScheduler", "clip_sample": True, "steps_offset": 0}),
    "the velocity": ("sd21-base", {}, {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}),
    "Euler's steps": ("sdxl", {}, {"_class_name": "EulerDiscreteScheduler", "steps_offset": 0}),
    "Playground's VAE": (
        "sdxl",
        {
            "scaling_factor": 0.5,
            "latents_mean": [-1.6574, 1.886, -1.383, 2.5155],
            "latents_std": [8.4927, 5.9022, 6.5498, 5.2299],
        },
        {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True},
    ),
}


@pytest.mark.parametrize("what", CASES)
def test_the_stock_pipeline_draws_the_same_images(what, shallow, tmp_path):
    """From prompts to pixels, guided, with the scheduler and the VAE's facts of the folder."""
    family, vae, scheduler = CASES[what]
    folder = tmp_path / "model"
    shutil.copytree(shallow(family), folder)
    index, config = folder / "model_index.json", folder / "vae" / "config.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"scheduler": ["diffusers", scheduler["_class_name"]]}))
    config.write_text(json.dumps(json.loads(config.read_text()) | vae))
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(NOISE | scheduler))
    theirs, latents, generator = both(folder, 5, 3.0, "pt")
    with torch.no_grad():
        images = generator.decoder(latents)
    assert ((images / 2 + 0.5).clamp(0, 1) - theirs).abs().max() < 2e-5
    assert theirs.std() > 0.01


def test_sdxl_goes_from_a_client_to_images_through_an_engine(shallow, tmp_path):
    folder = shallow("sdxl")
    recipe = Recipe(backend="torch", image_size=64, unet_batch=4, vae_batch=2)
    engine = build_engine(recipe, folder, tmp_path / "engines")
    private = read_dataset("fashion:private").select([0, 1, 2, 3])
    drawn = []
    for send in ("embeddings", "tokens"):
        merged = merge_payloads([embed(private, "ann", folder, "class", send)])
        asked = SynthesisSettings(images_per_class=2, sampling=Sampling(steps=2, guidance_scale=1.5))
        made = synthesize(engine, merged, asked, tmp_path / send)
        drawn.append((tmp_path / send / "train-000000.tar").stat().st_size)
        assert made.images == 2 * len(np.unique(merged.labels))
    assert abs(drawn[0] - drawn[1]) < 20_000


def test_the_pooled_embedding_reaches_the_unet(narrow):
    folder = narrow("sdxl")
    generator, shapes = load_generator(folder), read_shapes(folder, 64)
    text = torch.randn(1, shapes.text_length, shapes.text_width)
    other = text.clone()
    other[:, -1] += 1
    latents, timestep = torch.randn(1, *shapes.latent), torch.tensor([500.0])
    first, second = (generator.unet(latents, timestep, generator.projection(given)) for given in (text, other))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize(("family", "millions"), [("sd15", 859.5), ("sd21-base", 865.9), ("sdxl", 2567.5)])
def test_the_full_architectures_have_the_published_sizes(family, millions):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS[family])
    assert round(sum(p.numel() for p in unet.parameters()) / 1e6, 1) == millions


def test_every_shipped_recipe_names_a_family_that_can_be_drawn():
    recipes = [find_recipe(name) for name in shipped_recipes()]
    assert {recipe.family for recipe in recipes if recipe.model not in BUNDLED} == set(UNETS)
