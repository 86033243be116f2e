"""Learned text embeddings: by a generator whose best text is known, and by Stable Diffusion's architectures."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from hypothesis import given
from hypothesis import strategies as st
from reference import KilledError, Mortal, speaker

from fglfast.base.errors import UsageError
from fglfast.generator.learning.fitting import FitSettings
from fglfast.generator.learning.invert import Examples, LearnedText, check_generator, encode_images, invert, loss
from fglfast.generator.learning.paths import LINEAR
from fglfast.generator.learning.student import Task
from fglfast.generator.load import load_generator, read_shapes

FLOW = Task(LINEAR, "velocity", lambda t: 1000 * t)
CENTRES = torch.tensor([[-2.0, 0.5], [3.0, 1.0], [0.0, -1.0]])


def three_classes(images=(40, 3, 9)):
    classes = torch.repeat_interleave(torch.arange(3), torch.tensor(images))[
        torch.randperm(sum(images), generator=torch.Generator().manual_seed(0))
    ]
    return Examples(CENTRES[classes][..., None, None], classes)


def settings(steps, **changes):
    fit = FitSettings(
        steps=steps, batch_size=12, learning_rate=0.1, ema_decay=0.9, weight_decay=0.0, warmup_steps=5, seed=3
    )
    return fit.model_copy(update=changes)


def test_each_class_learns_what_its_own_images_are(tmp_path):
    text = LearnedText(torch.ones(3, 4, 3), 1)
    learned = invert(speaker(3), FLOW, three_classes(), text, settings(300), tmp_path)
    assert torch.allclose(learned[:, 1, :2], CENTRES, atol=0.1)
    rest = torch.tensor([True, False, True, True])
    assert torch.equal(learned[:, rest], torch.ones(3, 3, 3)), "only the asked vectors are learned"
    logged = [json.loads(line) for line in (tmp_path / "learn-metrics.jsonl").read_text().splitlines()]
    assert logged[-1]["step"] == 300 and logged[-1]["loss"] < 0.2 * logged[0]["loss"]


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    def learned(folder, unet=None, **changes):
        folder.mkdir(exist_ok=True)
        text = LearnedText(torch.ones(3, 4, 3), 2)
        return invert(speaker(3, unet), FLOW, three_classes(), text, settings(40, **changes), folder)

    whole = learned(tmp_path / "whole")
    with pytest.raises(KilledError):
        learned(tmp_path / "cut", Mortal(), checkpoint_seconds=0.0)
    assert torch.equal(learned(tmp_path / "cut"), whole)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 2**31))
def test_every_class_is_drawn_as_often_whatever_a_client_holds_of_it(images, seed):
    classes = torch.repeat_interleave(torch.arange(len(images)), torch.tensor(images))
    examples = Examples(torch.zeros(len(classes), 1, 1, 1), classes)
    rows = examples.draw(1200, torch.Generator().manual_seed(seed))
    drawn = classes[rows].bincount(minlength=len(images)) / 1200
    assert (drawn - 1 / len(images)).abs().max() < 0.09
    largest = int(np.argmax(images))
    assert len(rows[classes[rows] == largest].unique()) > 0.9 * images[largest] * (1 - np.exp(-1200 / sum(images)))


def test_generators_that_this_was_not_made_for_are_refused(narrow):
    one = read_shapes(narrow("sd15"), 64)
    check_generator(one, 76)
    for shapes, vectors, word in ((one, 77, "77 vectors"), (read_shapes(narrow("sdxl"), 64), 1, "SDXL")):
        with pytest.raises(UsageError, match=word):
            check_generator(shapes, vectors)


@pytest.mark.parametrize(("name", "kind"), [("sd15", "epsilon"), ("sd21-base", "v_prediction")])
def test_stable_diffusions_loss_is_that_of_diffusers_and_the_unet_stays(name, kind, shallow, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(shallow(name), folder)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": kind}))
    generator, task = load_generator(folder), Task.of_model(folder)
    images = np.random.default_rng(0).integers(0, 255, (6, 64, 64, 3), dtype=np.uint8)
    examples = Examples(encode_images(generator, [images[:4], images[4:]]), torch.tensor([0, 1, 0, 1, 0, 1]))
    text = LearnedText(torch.randn(2, 77, 32, generator=torch.Generator().manual_seed(0)), 4)
    stock = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    draws = torch.Generator().manual_seed(1)
    rows = examples.draw(4, draws)
    x0 = examples.latents[rows]
    noise, t = torch.randn(x0.shape, generator=draws), (1000 * torch.rand(4, generator=draws).sqrt()).long()
    target = noise if kind == "epsilon" else scheduler.get_velocity(x0, noise, t)
    with torch.no_grad():
        said = stock(scheduler.add_noise(x0, noise, t), t, text.prompts[examples.classes[rows]]).sample
        ours = loss(generator, task, text, examples, 4, torch.Generator().manual_seed(1))
    assert torch.allclose(ours, (said - target).square().mean(), rtol=1e-3)
    weights = {name: tensor.clone() for name, tensor in generator.unet.state_dict().items()}
    learned = invert(generator, task, examples, text, settings(2, batch_size=4), tmp_path)
    assert learned.shape == (2, 77, 32) and learned.isfinite().all()
    changed = (learned != text.prompts).any(dim=2)
    assert changed[:, 1:5].all() and not changed[:, 5:].any() and not changed[:, 0].any()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in generator.unet.state_dict().items())


def test_latents_are_what_the_decoder_takes(random_mini):
    """The same posterior mean as diffusers' own, and the decoder undoes the scale."""
    generator = load_generator(random_mini)
    images = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    signed = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        mean = generator.decoder.vae.encode(signed).latent_dist.mode()
        latents = encode_images(generator, [images])
        assert torch.allclose(generator.decoder(latents), generator.decoder.vae.decode(mean).sample, atol=1e-5)


def test_the_loss_is_the_training_loss_of_its_task(random_mini):
    """By hand: noise and times drawn in the same order, the velocity from data to noise."""
    generator = load_generator(random_mini)
    examples = Examples(torch.randn(4, 8, 8, 8), torch.tensor([0, 1, 0, 1]))
    text = torch.randn(2, 16, 64)
    with torch.no_grad():
        ours = loss(generator, FLOW, text.__getitem__, examples, 8, torch.Generator().manual_seed(5))
        draws = torch.Generator().manual_seed(5)
        rows = examples.draw(8, draws)
        x0, noise = examples.latents[rows], torch.randn(8, 8, 8, 8, generator=draws)
        t = torch.rand(8, generator=draws).sqrt()
        x = (1 - t).view(-1, 1, 1, 1) * x0 + t.view(-1, 1, 1, 1) * noise
        velocity = generator.unet(x, 1000 * t, generator.projection(text[examples.classes[rows]]))
    assert torch.allclose(ours, (velocity - (noise - x0)).square().mean(), rtol=1e-5)
