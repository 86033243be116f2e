"""The student that ships with the package, beside its teacher."""

import hashlib
import shutil

import pytest
import torch

from fglfast.base.errors import BadInputError
from fglfast.distill.distill import Cost, Distilled, DistillSettings, _save
from fglfast.engine.recipe import find_recipe
from fglfast.generator.blocks import Blocks
from fglfast.generator.load import load_generator, load_modules
from fglfast.generator.parts import ASSETS, PARTS, part
from fglfast.generator.text import load_prompts, resolve_model, text_fingerprint
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


def test_each_weight_is_shipped_once():
    weights = list(ASSETS.rglob("*.safetensors"))
    assert len({hashlib.sha256(path.read_bytes()).hexdigest() for path in weights}) == len(weights)
    teacher, student = resolve_model("mini"), resolve_model("mini-few")
    own = [name for name in PARTS if part(student, name).is_dir() and part(student, name) != part(teacher, name)]
    assert own == ["unet"] and load_prompts(student) == load_prompts(teacher)


def test_no_other_folder_reads_outside_itself(tmp_path):
    for name in ("mini", "mini-few"):
        shutil.copytree(ASSETS / name, tmp_path / name)
    assert part(tmp_path / "mini-few", "vae") == tmp_path / "mini-few" / "vae"
    with pytest.raises(BadInputError, match="mini-few/vae"):
        resolve_model(str(tmp_path / "mini-few"))


def test_a_student_of_the_student_is_whole(tmp_path):
    teacher = resolve_model("mini-few")
    settings = DistillSettings(teacher=Sampling(steps=2, guidance_scale=1.0))
    found = Distilled(
        settings=settings, teacher="", pairs=1, cost=Cost(pairs=None, training=0.0), before=None, after=None
    )
    unet, _ = load_modules(teacher)
    _save(teacher, [unet], Blocks(), found, tmp_path / "model")
    folder = resolve_model(str(tmp_path / "model"))
    assert text_fingerprint(folder) == text_fingerprint(teacher) and load_prompts(folder) == load_prompts(teacher)
    load_generator(folder)
