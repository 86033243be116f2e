"""Denoising losses of a denoiser that is optimal for Gaussian classes: their posterior is known."""

import numpy as np
import pytest
import torch

from fglfast.generator.learning.student import Task
from fglfast.sampler.evidence import levels_between, misfits

SHAPE, WIDTH = (2, 2, 2), 0.6  # of an image; standard deviation of a class's images
VELOCITY = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
TABLE = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
KINDS = [VELOCITY, *({**TABLE, "prediction_type": kind} for kind in ("epsilon", "v_prediction", "sample"))]


@pytest.fixture(scope="module")
def means():
    """Of three classes: two that are near each other, and one that is far."""
    first, far = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    return torch.stack([first, first + 0.25 * far, first + far])


def optimal(task, means):
    """Knows that images of text k are N(means[k], WIDTH^2); the text [B,1,1] is k."""

    def denoise(x_BCHW, timestep_B, text_BLE):
        t = torch.tensor(task.moment(float(timestep_B[0])))
        data, noise = task.path.data(t), task.path.noise(t)
        mean_BCHW = means[text_BLE.flatten().long()]
        gain = data * WIDTH**2 / (data**2 * WIDTH**2 + noise**2)
        x0_BCHW = mean_BCHW + gain * (x_BCHW - data * mean_BCHW)
        e_BCHW = (x_BCHW - data * x0_BCHW) / noise
        said = {"velocity": e_BCHW - x0_BCHW, "noise": e_BCHW, "v": data * e_BCHW - noise * x0_BCHW, "data": x0_BCHW}
        return said[task.kind]

    return denoise


def posterior(images, means):
    distances = (images[:, None] - means).square().flatten(2).sum(2) / (2 * WIDTH**2)
    return (-distances).softmax(1)


def found(task, images, means, count, low=-9.0, high=9.0):
    """With each noise and its negative: of a linear denoiser, that is its mean over all noises but for a constant."""
    levels = levels_between(task, low, high, count)
    noises = torch.from_numpy(np.random.default_rng(0).standard_normal((count, *SHAPE), dtype=np.float32))
    texts = [torch.full((len(images), 1, 1), float(k)) for k in range(len(means))]
    return sum(misfits(optimal(task, means), task, images, texts, levels, sign * noises) for sign in (1, -1)) / 2


@pytest.fixture(scope="module")
def images(means):
    noise = torch.randn(6, 3, *SHAPE, generator=torch.Generator().manual_seed(2))
    return (means + WIDTH * noise).flatten(0, 1)


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.get("prediction_type", "velocity"))
def test_many_levels_give_the_posterior_itself(config, images, means):
    said = (-found(Task.of_scheduler(config), images, means, 90)).softmax(1)
    assert torch.allclose(said, posterior(images, means), atol=0.02)


def test_few_levels_rank_as_the_posterior_does(images, means):
    said = (-found(Task.of_scheduler(VELOCITY), images, means, 2, -4.0, 2.0)).softmax(1)
    right = posterior(images, means)
    assert torch.equal(said.argmax(1), right.argmax(1))


def test_a_row_does_not_depend_on_the_others(images, means):
    task = Task.of_scheduler(VELOCITY)
    whole = found(task, images, means, 3)
    assert torch.equal(found(task, images.flip(0), means, 3).flip(0), whole)


def test_levels_lie_at_the_middles_of_equal_parts_of_a_range():
    levels = levels_between(Task.of_scheduler(VELOCITY), -4.0, 0.0, 2)
    ratios = [2 * np.log((1 - level.t) / level.t) for level in levels]
    assert np.allclose(ratios, [-3.0, -1.0], atol=0.02)
    assert np.allclose([level.weight for level in levels], [(1 - level.t) ** 2 for level in levels], rtol=1e-6)
