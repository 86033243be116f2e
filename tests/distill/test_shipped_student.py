"""The student that ships with the package, beside its teacher."""

import torch

from fglfast.engine.recipe import find_recipe
from fglfast.generator.load import load_generator
from fglfast.generator.text import resolve_model, text_fingerprint
from fglfast.generator.text_encoder import TextEncoder
from fglfast.sampler.sample import sample
from fglfast.sampler.schedule import Sampling, Schedule

PROMPTS = ["bag", "coat", "sandal", "trouser"] * 4


@torch.inference_mode()
def drawn(name, sampling):
    folder = resolve_model(name)
    encoder, generator = TextEncoder.load(folder), load_generator(folder)
    text = generator.projection(torch.from_numpy(encoder.encode(encoder.tokenize([*PROMPTS, ""]))))
    noise = torch.randn(len(PROMPTS), 8, 8, 8, generator=torch.Generator().manual_seed(3))
    return sample(generator.unet, noise, text[:-1], text[-1], Schedule.of_model(folder, sampling))


def test_its_few_steps_end_near_its_teachers_many():
    recipe = find_recipe("mini-few")
    many = drawn("mini", Sampling(steps=20, guidance_scale=1.0))
    few, hasty = (drawn(name, recipe.sampling) for name in (recipe.model, "mini"))
    assert recipe.sampling.steps <= 4 and recipe.sampling.guidance_scale == 1.0
    assert (few - many).square().mean() < 0.5 * (hasty - many).square().mean()


def test_payloads_made_for_the_teacher_fit_it():
    assert text_fingerprint(resolve_model("mini-few")) == text_fingerprint(resolve_model("mini"))
