"""What learned embeddings say of single images, on a generator with random weights."""

import numpy as np
import pytest
import torch

from fglfast.generator.learning.flow import TIMESTEPS
from fglfast.generator.load import load_generator
from fglfast.generator.text import load_prompts
from fglfast.generator.text_encoder import TextEncoder
from fglfast.images.dataset import read_dataset
from fglfast.lab.audit.audited import AuditedImages
from fglfast.lab.audit.learned import DRAWS, gains


@pytest.fixture(scope="module")
def pool():
    images = read_dataset("fashion:private").select(range(70))  # more than one pass
    return AuditedImages(images, torch.empty(0))


@pytest.fixture(scope="module")
def prompts_KLD(random_mini, pool):
    encoder, template = TextEncoder.load(random_mini), load_prompts(random_mini).class_level
    prompts = [template.format(label=name) for name in pool.images.class_names]
    return encoder.encode(encoder.tokenize(prompts)).astype(np.float16)


def test_the_class_prompt_itself_gains_nothing_and_no_row_exactly_nothing(random_mini, pool, prompts_KLD):
    rows = pool.images.labels.copy()
    rows[5] = -1
    found = gains(random_mini, pool, prompts_KLD, rows)
    assert np.abs(found).max() < 1e-3 and found[5] == 0


def test_a_gain_is_the_difference_of_two_losses(random_mini, pool, prompts_KLD):
    """Worked out for one image by the definition of the flow: noise at t=1, data at t=0, velocity between them."""
    other_1LD, image = prompts_KLD[:1] + np.float16(0.5), 66
    found = gains(random_mini, pool, other_1LD, np.where(np.arange(70) == image, 0, -1))
    generator = load_generator(random_mini, "cpu")
    vae = generator.decoder.vae
    pixels = torch.from_numpy(pool.images.pixels(image, 32).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    noises = torch.Generator().manual_seed(0)
    losses = {}
    with torch.no_grad():
        data = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
        noise_D = torch.randn(DRAWS, *data.shape[1:], generator=noises)
        for name, text in (("prompt", prompts_KLD[[pool.images.labels[image]]]), ("other", other_1LD)):
            projected = generator.projection(torch.from_numpy(text.astype(np.float32)))
            errors = []
            for draw in range(DRAWS):
                t = ((draw + 0.5) / DRAWS) ** 0.5
                x, velocity = (1 - t) * data + t * noise_D[draw], noise_D[draw] - data
                errors.append((generator.unet(x, torch.tensor([TIMESTEPS * t]), projected) - velocity).square().mean())
            losses[name] = float(torch.stack(errors).mean())
    assert found[image] == pytest.approx(losses["prompt"] - losses["other"], abs=1e-4)
    assert abs(found[image]) > 1e-3 and not found[:image].any()
