"""LiRA on models made of Gaussians: what it must find, and that it finds nothing where there is nothing."""

import numpy as np
import pytest
from scipy.stats import norm

from fglfast.lab.audit.likelihood import leave_one_out, likelihood_ratio
from fglfast.lab.audit.roc import roc

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
