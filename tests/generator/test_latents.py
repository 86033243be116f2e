"""What a VAE's config says of its latents, on the way out and on the way in."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from fglfast.generator.latents import LatentSpace
from fglfast.generator.learning.invert import encode_images
from fglfast.generator.load import load_generator

MEAN, STD = (-1.6, 1.5, 0.0, 0.3, 0.7, -0.2, 2.0, -3.0), (8.4, 6.0, 4.2, 2.5, 1.0, 0.5, 3.0, 2.0)
FACTS = {
    "scale": {"scaling_factor": 0.5},
    "mean and deviation": {"scaling_factor": 0.5, "latents_mean": MEAN, "latents_std": STD},
    "shift": {"scaling_factor": 0.3611, "shift_factor": 0.1159},
    "mean alone": {"scaling_factor": 0.5, "latents_mean": MEAN},
}


def as_the_vae_reads(latents, facts):
    if "latents_std" in facts:
        mean, std = (torch.tensor(facts[key]).view(1, -1, 1, 1) for key in ("latents_mean", "latents_std"))
        return latents * std / facts["scaling_factor"] + mean
    return latents / facts["scaling_factor"] + facts.get("shift_factor", 0.0)


@pytest.mark.parametrize("what", FACTS)
def test_there_and_back(what):
    space, latents = LatentSpace(FACTS[what]), torch.randn(2, 8, 4, 4)
    assert torch.allclose(space.to_vae(latents), as_the_vae_reads(latents, FACTS[what]), atol=1e-5)
    assert torch.allclose(space.from_vae(space.to_vae(latents)), latents, atol=1e-5)


@pytest.mark.parametrize("what", FACTS)
def test_a_generator_decodes_and_encodes_as_its_vae_says(what, random_mini, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(random_mini, folder)
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | FACTS[what]))
    generator = load_generator(folder)
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    latents = torch.randn(2, 8, 8, 8)
    with torch.no_grad():
        expected = vae.decode(as_the_vae_reads(latents, FACTS[what]), return_dict=False)[0]
        assert torch.allclose(generator.decoder(latents), expected, atol=1e-4)
        images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
        seen = vae.encode(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mean
    found = encode_images(generator, [images])
    assert torch.allclose(as_the_vae_reads(found, FACTS[what]), seen, atol=1e-4)
