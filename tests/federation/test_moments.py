"""Moments of features: those of parts add up to those of the whole, and their head tells the classes apart."""

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from small_federation import CLASSES

from fglfast.federation import wire
from fglfast.federation.moments import COUNTS, SQUARES, SUMS, empty, fill_head, moments_of, of_images, sound_moments
from fglfast.images.dataset import read_dataset
from fglfast.training.batches import TrainingData
from fglfast.training.model import build_model, head_of
from fglfast.training.predict import count_right


@pytest.fixture
def model(tiny_arch):
    torch.manual_seed(0)
    return build_model(tiny_arch, CLASSES)


def part(private, rows):
    return TrainingData.of(read_dataset(private).select(rows), 16, 0.0, seed=0)


def test_the_head_of_parts_is_that_of_the_whole_however_they_are_split(model, private):
    """Sorted by label: each client has one class."""
    whole = part(private, np.arange(120))
    parts = [moments_of(model, part(private, rows)) for rows in np.array_split(np.arange(120), 3)]
    assert [own[COUNTS].tolist() for own in parts] == [[40, 0, 0], [0, 40, 0], [0, 0, 40]]
    fill_head(model, [moments_of(model, whole)])
    pooled = head_of(model).weight.clone()
    fill_head(model, parts)
    assert torch.allclose(head_of(model).weight, pooled, atol=1e-4)
    assert count_right(model, whole, whole.train) > 0.8 * 120, "features of random weights tell such classes apart"


def spoiled(model, private, how):
    found = moments_of(model, part(private, np.arange(120)))
    spoil = {
        "sums": lambda: found[SUMS].fill_(1.7e308),
        "squares": lambda: found[SQUARES].fill_(1.7e308),
        "negative squares": lambda: found[SQUARES].neg_(),
        "counts": lambda: found[COUNTS].fill_(-1e6),
        "half an image": lambda: found[COUNTS].add_(0.5),
        "permuted sums": lambda: found[SUMS].mul_(100),
        "lopsided": lambda: found[SQUARES][0].add_(found[SQUARES].abs().max()),
        "nobody's": lambda: found[COUNTS][0].zero_(),
    }
    spoil.get(how, lambda: None)()
    return RecordDict({wire.ARRAYS: wire.weights_record(found)}), found


@pytest.mark.parametrize(
    "how",
    ["sums", "squares", "negative squares", "counts", "half an image", "permuted sums", "lopsided", "nobody's"],
)
def test_moments_of_no_images_are_refused(model, private, how):
    form = empty(head_of(model))
    content, honest = spoiled(model, private, "")
    assert all(torch.equal(sound_moments(content, form)[name], value) for name, value in honest.items())
    with pytest.raises(wire.UnfitError):
        sound_moments(spoiled(model, private, how)[0], form)


def test_moments_weigh_no_more_than_the_claim_of_images(model, private):
    found = moments_of(model, part(private, np.arange(120)))
    assert of_images(found, 30)[COUNTS].sum() == 30 and torch.equal(of_images(found, 30)[SUMS], found[SUMS] / 4)
    assert torch.equal(of_images(found, 500)[SQUARES], found[SQUARES])


def test_a_class_that_nobody_holds_is_never_named(model, private):
    fill_head(model, [moments_of(model, part(private, np.arange(80)))])
    images = part(private, np.arange(120))
    assert count_right(model, images, images.train[80:]) == 0
    found = empty(head_of(model))
    features_NF = 30 + 0.1 * torch.randn(100, found[SUMS].shape[1], dtype=torch.float64)
    found[COUNTS][:2] = 50
    found[SUMS][:2] = torch.stack([features_NF[:50].sum(0), features_NF[50:].sum(0)])
    found[SQUARES] += features_NF.T @ features_NF
    fill_head(model, [found])
    assert head_of(model)(torch.zeros(1, len(features_NF[0]))).argmax() < 2, "however low the scores of the others"
    fill_head(model, [empty(head_of(model))])
    assert all(torch.isfinite(weight).all() for weight in head_of(model).parameters())
