"""Distillation without data: its losses where the answer is known, and what a model learns from nothing but others."""

import numpy as np
import pytest
import torch
from small_federation import CLASSES
from torch import nn

from fglfast.federation.dense import DenseGenerator, disagreement, distill_ensemble, divergence, together, watched
from fglfast.federation.experiment import Dense, LocalSettings
from fglfast.federation.local import train_locally
from fglfast.images.dataset import read_dataset
from fglfast.training.augment import Augmentation
from fglfast.training.batches import TrainingData
from fglfast.training.model import build_model
from fglfast.training.predict import count_right

SETTINGS = Dense(epochs=8, generator_steps=15, batch_size=32, width=8, generator_rate=0.01, learning_rate=0.05)


def test_divergence_is_that_of_kullback_and_leibler():
    wanted_BK, said_BK = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log(), torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log()
    by_hand = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert divergence(wanted_BK, said_BK).tolist() == pytest.approx([by_hand, 0.0], abs=1e-6)


def test_only_images_of_which_they_name_different_classes_count_as_a_disagreement():
    wanted_BK, same_BK = torch.tensor([[0.9, 0.1], [0.6, 0.4]]).log(), torch.tensor([[0.6, 0.4], [0.9, 0.1]]).log()
    other_BK = torch.tensor([[0.1, 0.9], [0.9, 0.1]]).log()
    assert disagreement(wanted_BK, same_BK) == 0
    assert disagreement(wanted_BK, other_BK) == pytest.approx(0.8 * np.log(9) / 2, rel=1e-5)


def test_a_batch_is_as_far_from_batch_normalisation_as_its_mean_and_variance_are():
    norm = nn.BatchNorm2d(2)
    norm.running_mean[:], norm.running_var[:] = torch.tensor([0.0, 3.0]), torch.tensor([1.0, 4.0])
    norm.eval()
    batch_BCHW = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1) * torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    with watched([norm]) as gaps:
        norm(batch_BCHW)
        norm(batch_BCHW + torch.tensor([0.0, 3.0]).view(1, 2, 1, 1))
    assert [gap.item() for gap in gaps] == pytest.approx([3.0, 0.0], abs=1e-6)
    norm(batch_BCHW)
    assert len(gaps) == 2, "it no longer looks"


@pytest.mark.parametrize("size", [16, 28, 30])
def test_images_are_drawn_at_the_models_size(size):
    images_B3SS = DenseGenerator(size, 4)(torch.randn(3, 256))
    assert images_B3SS.shape == (3, 3, size, size) and images_B3SS.abs().max() <= 1


@pytest.fixture(scope="module")
def teachers(private, tiny_arch):
    """Two that have learned from half of the images each."""
    models = []
    for half in (np.arange(0, 120, 2), np.arange(1, 120, 2)):
        torch.manual_seed(len(models))
        models.append(build_model(tiny_arch, CLASSES))
        images = TrainingData.of(read_dataset(private).select(half), 16, 0.0, seed=0)
        settings = LocalSettings(epochs=15, batch_size=12, learning_rate=0.05, erasing=0.0, flip=False)
        train_locally(models[-1], images, settings, seed=0)
    return models


def distilled(teachers, arch, seed=0):
    torch.manual_seed(7)
    student = build_model(arch, CLASSES)
    state = torch.get_rng_state()
    distill_ensemble(teachers, student, 3, Augmentation(16, None, False, 0.0), SETTINGS, seed)
    assert torch.equal(state, torch.get_rng_state())
    return student


def test_a_model_learns_what_the_ensemble_knows_without_an_image(teachers, tiny_arch, public):
    test = TrainingData.of(read_dataset(public), 16, 0.0, seed=0)
    before = [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in teachers]
    assert all(count_right(model, test, test.train) > 0.9 * len(test.labels) for model in teachers)
    student = distilled(teachers, tiny_arch)
    assert count_right(student, test, test.train) > 0.8 * len(test.labels)
    for model, kept in zip(teachers, before, strict=True):
        assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())


def test_distilled_again_it_is_the_same_model(teachers, tiny_arch, monkeypatch):
    monkeypatch.setattr("test_dense.SETTINGS", SETTINGS.model_copy(update={"epochs": 2, "generator_steps": 2}))
    one, again, other = (distilled(teachers, tiny_arch, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_together_is_the_mean_of_the_logits(teachers):
    images_B3SS = torch.randn(2, 3, 16, 16)
    apart = [together([model], images_B3SS) for model in teachers]
    assert torch.allclose(together(teachers, images_B3SS), (apart[0] + apart[1]) / 2, atol=1e-6)
