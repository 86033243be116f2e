import numpy as np
import pytest
import torch
from small_federation import CLASSES

from fglfast.federation.experiment import LocalSettings
from fglfast.federation.local import train_locally
from fglfast.images.dataset import read_dataset
from fglfast.training.augment import normalise
from fglfast.training.batches import TrainingData
from fglfast.training.model import build_model
from fglfast.training.predict import count_right

SETTINGS = LocalSettings(epochs=4, batch_size=16, learning_rate=0.05, erasing=0.0, flip=False)


@pytest.fixture(scope="module")
def images(private):
    return TrainingData.of(read_dataset(private), 16, 0.2, seed=0)


def fresh(arch):
    torch.manual_seed(0)
    return build_model(arch, CLASSES)


def moved(model, arch):
    return sum((a - b).square().sum() for a, b in zip(model.parameters(), fresh(arch).parameters(), strict=True)).item()


def test_held_out_images_are_none_of_the_trained_and_of_every_class(images):
    assert not set(images.train) & set(images.held_out)
    assert len(images.train) + len(images.held_out) == len(images.labels)
    assert set(images.labels[images.held_out].tolist()) == {0, 1, 2}


def test_a_client_learns_what_its_images_show(images, tiny_arch):
    model = fresh(tiny_arch)
    before = count_right(model, images, images.held_out)
    train_locally(model, images, SETTINGS, seed=0)
    assert count_right(model, images, images.held_out) > max(before, 0.8 * len(images.held_out))


def test_a_round_run_again_gives_the_same_weights(images, tiny_arch):
    one, other = fresh(tiny_arch), fresh(tiny_arch)
    for model in (one, other):
        train_locally(model, images, SETTINGS, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    different = fresh(tiny_arch)
    train_locally(different, images, SETTINGS, seed=6)
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), different.parameters(), strict=True))


def test_augmentation_is_drawn_anew_every_epoch(images, monkeypatch, tiny_arch):
    """The authors' FedAvg trained on one frozen augmentation of each image."""
    seeds = []
    monkeypatch.setattr("fglfast.training.fit.step_seed", lambda *identity: seeds.append(identity) or len(seeds))
    train_locally(fresh(tiny_arch), images, SETTINGS, seed=0)
    assert len(set(seeds)) == len(seeds) == SETTINGS.epochs * (len(images.train) // SETTINGS.batch_size)


def test_without_batch_normalisation_an_image_is_named_alike_in_any_batch_and_in_training(images):
    model = fresh("bit14-tiny")
    assert not [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    train_locally(model, images, SETTINGS, seed=0)
    assert count_right(model, images, images.held_out) > 0.8 * len(images.held_out)
    pixels_B3SS = normalise(images.pixels[:4])
    alone, beside = model(pixel_values=pixels_B3SS[:1]), model.train()(pixel_values=pixels_B3SS)
    assert torch.allclose(alone.logits[0], beside.logits[0], atol=1e-4)


def test_the_proximal_term_holds_weights_back(images, tiny_arch):
    free, held = fresh(tiny_arch), fresh(tiny_arch)
    train_locally(free, images, SETTINGS, seed=0)
    train_locally(held, images, SETTINGS, seed=0, proximal_mu=10.0)
    assert moved(held, tiny_arch) < 0.5 * moved(free, tiny_arch)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_client_with_hardly_an_image(private, tiny_arch, count):
    dataset = read_dataset(private).select(np.arange(count))
    images, model = TrainingData.of(dataset, 16, 0.1, seed=0), fresh(tiny_arch)
    train_locally(model, images, SETTINGS, seed=0)
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    assert 0 <= count_right(model, images, images.held_out) <= count
