"""Routing and adapters, learned through a generator whose best text is known."""

import pytest
import torch
from reference import KilledError, Mortal, speaker

from fglfast.generator.inventory import Inventory, InventoryHeader
from fglfast.generator.learning.fitting import FitSettings
from fglfast.generator.learning.invert import Examples
from fglfast.generator.learning.paths import LINEAR
from fglfast.generator.learning.routing import Learner, learn_inventory
from fglfast.generator.learning.student import Task

FLOW = Task(LINEAR, "velocity", lambda t: 1000 * t)
FACTS = {"text_encoder": "ab" * 32, "model": "cd" * 32, "length": 3, "width": 4, "transformations": ("a", "b")}
PROMPTS = torch.tensor([[[1.0] * 4, [0.0, 0, 0, 0], [0.5] * 4], [[1.0] * 4, [2.0, 2, 2, 2], [0.5] * 4]])


def by_hand():
    """Two adapters: the first adds 3 to a token, the second takes 3 off; two heads of two channels."""
    made = Inventory(InventoryHeader(**FACTS, adapters=2, heads=2, rank=1))
    made.bias.data[0], made.bias.data[1] = 3.0, -3.0
    return made.requires_grad_(False)


def images_of(shares, each=40):
    """Images of both classes, as they are where the first adapter has these shares of both heads."""
    change = torch.tensor([6 * share - 3 for share in shares for _ in range(2)])
    classes = torch.arange(2).repeat(each)
    return Examples((PROMPTS[classes, 1] + change)[..., None, None], classes)


def settings(steps, **changes):
    fit = FitSettings(
        steps=steps, batch_size=16, learning_rate=0.1, ema_decay=0.9, weight_decay=0.0, warmup_steps=5, seed=3
    )
    return fit.model_copy(update=changes)


def test_the_routing_that_made_the_images_is_recovered(tmp_path):
    learner = Learner(speaker(4), FLOW, by_hand(), PROMPTS)
    shares = (0.9, 0.3)
    logits = learner.learn(images_of(shares), settings(150), tmp_path)
    assert logits.shape == (2, 2)
    assert torch.allclose(logits.softmax(0)[0], torch.tensor(shares), atol=0.03)
    wanted = PROMPTS[:, 1] + torch.tensor([2.4, 2.4, -1.2, -1.2])
    assert torch.allclose(learner.texts(logits)[:, 1], wanted, atol=0.2)


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    def learnt(folder, unet=None, **changes):
        folder.mkdir(exist_ok=True)
        learner = Learner(speaker(4, unet), FLOW, by_hand(), PROMPTS)
        return learner.learn(images_of((0.2, 0.7)), settings(40, **changes), folder)

    whole = learnt(tmp_path / "whole")
    with pytest.raises(KilledError):
        learnt(tmp_path / "cut", Mortal(), checkpoint_seconds=0.0)
    assert torch.equal(learnt(tmp_path / "cut"), whole)


def test_adapters_learn_what_the_transformations_do_and_a_mixture_reaches_between(tmp_path):
    """Two transformations add and take off; images that lie between were seen by none of them."""
    made = Inventory(InventoryHeader(**FACTS, adapters=2, heads=1, rank=1))
    shown = [images_of((1.0, 1.0)), images_of((0.0, 0.0))]
    learn_inventory(speaker(4), FLOW, shown, PROMPTS, made, settings(300, learning_rate=0.05), tmp_path)
    assert not any(parameter.requires_grad for parameter in made.parameters())
    (tmp_path / "client").mkdir()
    learner = Learner(speaker(4), FLOW, made, PROMPTS)
    logits = learner.learn(images_of((0.6, 0.6)), settings(150), tmp_path / "client")
    assert torch.allclose(learner.texts(logits)[:, 1], PROMPTS[:, 1] + 0.6, atol=0.3)
