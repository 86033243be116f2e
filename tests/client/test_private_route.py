"""Routing under differential privacy: how much noise, what an image adds, and what is learned all the same."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from fglfast.client.privacy import Budget
from fglfast.client.private_route import descend, image_sum, noise_multiplier, private_route
from fglfast.generator.inventory import Inventory, InventoryHeader
from fglfast.generator.learning.invert import Examples
from fglfast.generator.learning.paths import LINEAR
from fglfast.generator.learning.routing import CLIENT_FIT, Learner
from fglfast.generator.learning.student import Task

FACTS = {"text_encoder": "ab" * 32, "model": "cd" * 32, "length": 2, "width": 2, "transformations": ("a", "b")}
PROMPTS = torch.tensor([[[1.0, 1], [0, 0]], [[1, 1], [2, 2]]])


class Speaker(nn.Module):
    """A UNet that takes the data for what the text's second vector says."""

    def forward(self, x, timestep, text):
        t = (timestep / 1000).clamp(min=0.05).view(-1, 1, 1, 1)
        return (x - text[:, 1, :, None, None]) / t


def learner():
    """Of two adapters, one of which adds 3 to a token; the other takes 3 off. Two heads of a channel each."""
    linear = nn.Linear(2, 2, bias=False).requires_grad_(False)
    linear.weight.data = torch.eye(2)
    projection = nn.Sequential(linear)
    projection.linear, projection.pooled = linear, 0
    made = Inventory(InventoryHeader(**FACTS, adapters=2, heads=2, rank=1))
    made.bias.data[0], made.bias.data[1] = 3.0, -3.0
    task = Task(LINEAR, "velocity", lambda t: 1000 * t)
    return Learner(SimpleNamespace(unet=Speaker(), projection=projection), task, made.requires_grad_(False), PROMPTS)


def images_of(shares, each):
    """Images of both classes, as they are where the first adapter has these shares of both heads."""
    classes = torch.arange(2).repeat(each)
    return Examples((PROMPTS[classes, 1] + 6 * torch.tensor(shares) - 3)[..., None, None], classes)


def test_what_was_routed_is_learned_under_a_budget_by_a_client_of_many_images():
    shares = (0.9, 0.3)
    counts = np.array([1000, 1000])
    found = private_route(learner(), images_of(shares, 1000), counts, CLIENT_FIT, Budget(epsilon=8.0))
    assert (found.logits.softmax(0)[0] - torch.tensor(shares)).abs().max() < 0.25
    assert np.abs(found.counts - counts).max() < 30 and found.privacy.noise > 0
    assert (found.privacy.mechanism, found.privacy.epsilon, found.privacy.uploads) == ("dp-sgd", 8.0, 1)


def test_uploads_share_a_budget():
    """Twice as many uploads, half of epsilon and delta for each: the noise on the counts says so."""
    args = (learner(), images_of((0.5, 0.5), 50), np.array([50, 50]), CLIENT_FIT.model_copy(update={"steps": 2}))
    alone = private_route(*args, Budget(epsilon=1.0, delta=1e-6)).privacy.noise
    shared = private_route(*args, Budget(epsilon=2.0, delta=2e-6, uploads=2)).privacy
    assert shared.noise == alone and shared.epsilon == 2.0 and shared.uploads == 2


def test_a_step_without_images_is_noise():
    few = CLIENT_FIT.model_copy(update={"steps": 3})
    quiet = descend(learner(), images_of((0.9, 0.9), 5), few, 0.0, 0.0)
    assert not quiet.any()
    assert descend(learner(), images_of((0.9, 0.9), 5), few, 0.0, 1.0).any()


def test_noise_is_that_of_the_gaussian_mechanism_where_all_images_take_part():
    """One step of all images: an image that is replaced changes the sum by 2 at most."""
    import dp_accounting

    found = noise_multiplier(2.0, 1e-5, 1.0, 1)
    assert found >= 2 * dp_accounting.get_sigma_gaussian(2.0, 1e-5)
    assert noise_multiplier(2.0, 1e-5, 1.0, 4) == pytest.approx(2 * found, rel=0.01)
    assert noise_multiplier(2.0, 1e-5, 0.01, 4) < found / 2
    assert noise_multiplier(1.0, 1e-5, 0.01, 4) > noise_multiplier(2.0, 1e-5, 0.01, 4)


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e38])
def test_no_image_adds_more_than_one_to_a_step(scale):
    images = Examples(scale * torch.randn(6, 2, 1, 1), torch.arange(6) % 2)
    for rows in ([0], [3], []):
        draws = torch.Generator().manual_seed(0)
        found = image_sum(learner(), images, torch.zeros(2, 2), torch.tensor(rows, dtype=torch.long), draws)
        assert found.isfinite().all() and found.norm() <= 1
    assert not found.any()


def test_a_replaced_image_changes_a_step_by_two_at_most():
    images = images_of((0.9, 0.3), 2)

    def of(rows):
        return image_sum(learner(), images, torch.zeros(2, 2), torch.tensor(rows), torch.Generator().manual_seed(0))

    other = Examples(torch.cat([images.latents[:1], 100 * images.latents[1:]]), images.classes)
    changed = image_sum(learner(), other, torch.zeros(2, 2), torch.tensor([0, 1]), torch.Generator().manual_seed(0))
    assert (changed - of([0, 1])).norm() <= 2
