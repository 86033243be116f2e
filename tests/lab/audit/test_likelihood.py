"""Confidences against what the model itself says; LiRA on models made of Gaussians: what it must and must not find."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from transformers import ResNetConfig, ResNetForImageClassification

from fglfast.lab.audit.likelihood import confidences, leave_one_out, likelihood_ratio
from fglfast.lab.audit.roc import roc
from fglfast.training.augment import normalise

MODELS, IMAGES = 24, 1500


def world(gain, seed=0):
    """Confidences that differ widely from image to image; a member's are higher by `gain` standard deviations."""
    draw = np.random.default_rng(seed)
    inside_SN = draw.random((MODELS, IMAGES)) < 0.5
    hardness_N = draw.normal(0, 10, IMAGES)
    return hardness_N + gain * inside_SN + draw.normal(0, 1, (MODELS, IMAGES)), inside_SN


def test_what_memory_adds_is_found_whatever_the_images_differ_by():
    said_SN, inside_SN = world(gain=2.0)
    found = roc(leave_one_out(said_SN, inside_SN), inside_SN)
    perfect = norm.cdf(2.0 / np.sqrt(2))  # of an attacker who knows both means
    assert perfect - 0.03 < found.auc.value < perfect + 0.01
    threshold = roc(said_SN, inside_SN)
    assert threshold.auc.value < 0.6 and found.caught[0].low > 10 * threshold.caught[0].value


def test_where_nothing_is_remembered_nothing_is_found():
    said_SN, inside_SN = world(gain=0.0)
    found = roc(leave_one_out(said_SN, inside_SN), inside_SN)
    assert abs(found.auc.value - 0.5) < 0.01 and found.caught[0].value < 0.02


def test_images_that_all_shadows_know_or_none_are_scored_too():
    said_SN, inside_SN = world(gain=3.0)
    inside_SN[1:, :5], inside_SN[1:, 5:10] = True, False
    scores_N = likelihood_ratio(said_SN[0], said_SN[1:], inside_SN[1:])
    assert np.isfinite(scores_N).all()
    known = likelihood_ratio(np.full(IMAGES, 50.0), said_SN[1:], inside_SN[1:])
    assert known.min() > likelihood_ratio(np.full(IMAGES, -50.0), said_SN[1:], inside_SN[1:]).max()


def test_models_that_agree_to_the_bit_give_no_score_away():
    said_SN = np.tile(np.arange(20.0), (6, 1))
    inside_SN = np.random.default_rng(0).random((6, 20)) < 0.5
    assert likelihood_ratio(said_SN[0], said_SN, inside_SN) == pytest.approx(np.zeros(20))


def classifier():
    torch.manual_seed(0)
    config = ResNetConfig(layer_type="basic", depths=[1, 1], embedding_size=8, hidden_sizes=[8, 16], num_labels=3)
    return ResNetForImageClassification(config).eval()


def test_confidences_are_log_odds_and_fall_as_the_loss_rises():
    model, labels = classifier(), np.arange(300) % 3
    pixels = torch.randint(0, 256, (300, 3, 8, 8), dtype=torch.uint8)
    said = confidences(model, pixels, labels)
    with torch.inference_mode():
        logits = model(pixel_values=normalise(pixels)).logits.double()
    p = logits.softmax(1)[torch.arange(300), torch.from_numpy(labels)].numpy()
    assert np.allclose(said, np.log(p / (1 - p)), atol=1e-4)
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels), reduction="none").numpy()
    assert np.array_equal(np.argsort(said), np.argsort(-loss))


def test_of_a_single_class_nothing_can_be_told():
    config = ResNetConfig(layer_type="basic", depths=[1], embedding_size=8, hidden_sizes=[8], num_labels=1)
    pixels = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    said = confidences(ResNetForImageClassification(config).eval(), pixels, np.zeros(5, np.int64))
    assert said.tolist() == [0.0] * 5


def test_certainty_is_not_rounded_to_infinity():
    model = classifier()
    with torch.no_grad():
        model.classifier[1].bias[0] += 500.0
    said = confidences(model, torch.zeros(2, 3, 8, 8, dtype=torch.uint8), np.array([0, 1]))
    assert 450 < said[0] < 550 and -550 < said[1] < -450
