"""Turbo, Lightning, LCM and zero terminal SNR: our sampler against the stock pipelines, fed the same noise."""

import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline

from fglfast.generator.load import load_generator, read_shapes
from fglfast.generator.scheduler import CONFIG
from fglfast.generator.text_encoder import TextEncoder
from fglfast.sampler.sample import sample
from fglfast.sampler.schedule import Sampling, Schedule

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
TRAILING = {"timestep_spacing": "trailing"}
ANCESTRAL, EULER, LCM = "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler", "LCMScheduler"
V_ZERO = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"} | TRAILING
# The folder's own scheduler, what a recipe asks for, and the scheduler of the pipeline.
CASES = {
    "SDXL-Turbo": ({"_class_name": ANCESTRAL} | TRAILING, {"steps": 3}, None),
    "SDXL-Turbo's in a recipe": (
        {"_class_name": EULER},
        {"steps": 3, "scheduler": "euler-ancestral", "spacing": "trailing"},
        {"_class_name": ANCESTRAL} | TRAILING,
    ),
    "SDXL-Lightning": (
        {"_class_name": EULER},
        {"steps": 4, "scheduler": "euler", "spacing": "trailing"},
        {"_class_name": EULER} | TRAILING,
    ),
    "LCM adapters": ({"_class_name": EULER}, {"steps": 4, "scheduler": "lcm"}, {"_class_name": LCM}),
    "zero terminal SNR": ({"_class_name": EULER} | V_ZERO, {"steps": 4}, None),
    "DDPM": ({"_class_name": "DDPMScheduler"}, {"steps": 3}, None),
    "TCD": ({"_class_name": "TCDScheduler"}, {"steps": 4}, None),
    "the index's scheduler": ({"_class_name": "PNDMScheduler"}, {"steps": 4}, {"_class_name": "DDIMScheduler"}),
}


@pytest.fixture(scope="module")
def sdxl(shallow):
    """Its folder, its generator, and the text of a prompt and of an empty one."""
    folder = shallow("sdxl")
    encoder = TextEncoder.load(folder)
    return folder, load_generator(folder), torch.from_numpy(encoder.encode(encoder.tokenize(["a photograph"])))


@pytest.mark.parametrize("case", CASES)
def test_models_of_few_steps_draw_what_the_stock_pipeline_draws(case, sdxl, tmp_path):
    own, asked, theirs = CASES[case]
    source, generator, text_1LD = sdxl
    folder = tmp_path / "model"
    shutil.copytree(source, folder)
    draws = [torch.Generator().manual_seed(5) for _ in range(2)]
    shape = (2, *read_shapes(folder, 64).latent)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    (folder / CONFIG).write_text(json.dumps(BETAS | (theirs or own)))
    index = folder / "model_index.json"
    name = (theirs or own)["_class_name"]
    index.write_text(json.dumps(json.loads(index.read_text()) | {"scheduler": ["diffusers", name]}))
    pipeline = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        ["a photograph"] * 2,
        latents=noise,
        generator=draws[0],
        num_inference_steps=asked["steps"],
        guidance_scale=0.0,
        height=64,
        width=64,
        output_type="latent",
    ).images

    (folder / CONFIG).write_text(json.dumps(BETAS | own))
    schedule = Schedule.of_model(folder, Sampling(guidance_scale=0.0, **asked))
    projected = generator.projection(text_1LD).expand(2, -1, -1)
    found = sample(
        generator.unet, noise, projected, projected[0], schedule, lambda _: torch.randn(shape, generator=draws[1])
    )
    assert expected.isfinite().all() and torch.allclose(found, expected, rtol=1e-3, atol=1e-3)
