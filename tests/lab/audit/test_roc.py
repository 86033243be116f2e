"""ROC curves of scores whose answers are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from fglfast.lab.audit.roc import RATES, roc, share

scores = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=30).map(np.array)


def test_members_that_all_score_higher_are_all_found():
    found = roc(np.arange(2000.0, 3000), np.arange(0.0, 2000))
    assert found.auc.value == 1 and found.advantage == 1 and [one.value for one in found.caught] == [1, 1]
    reversed_scores = roc(np.arange(0.0, 1000), np.arange(1000.0, 3000))
    assert reversed_scores.auc.value == 0 and reversed_scores.advantage == 0 and reversed_scores.caught[0].value == 0


def test_a_rate_allows_that_many_others_above_the_threshold():
    others = np.arange(200.0)  # two of them are 1%
    assert roc(np.array([197.5, 198.5, 199.5, 0.0]), others).caught[0].value == 0.75
    assert roc(np.array([196.5, 0.0]), others).caught[0].value == 0
    assert roc(np.array([196.5]), others).caught[1] is None  # a fifth of an image is 0.1%


def test_gaussians_a_known_distance_apart():
    draw = np.random.default_rng(0)
    found = roc(draw.normal(1.5, 1, 20_000), draw.normal(0, 1, 20_000))
    assert found.auc.value == pytest.approx(norm.cdf(1.5 / np.sqrt(2)), abs=0.01)
    assert found.auc.low < norm.cdf(1.5 / np.sqrt(2)) < found.auc.high
    assert found.advantage == pytest.approx(2 * norm.cdf(0.75) - 1, abs=0.015)
    assert found.caught[0].value == pytest.approx(norm.sf(norm.isf(0.01) - 1.5), abs=0.03)


@given(scores, scores)
def test_the_area_is_the_share_of_pairs_in_the_right_order(members, others):
    found = roc(members, others)
    pairs = members[:, None] - others[None, :]
    assert found.auc.value == pytest.approx(float((pairs > 0).mean() + (pairs == 0).mean() / 2))
    assert found.auc.low <= found.auc.value + 1e-12 and found.auc.value <= found.auc.high + 1e-12
    false, true = np.array(found.curve).T
    assert (np.diff(false) >= 0).all() and (np.diff(true) >= 0).all()
    gaps = [float((members > cut).mean() - (others > cut).mean()) for cut in [-9.0, *others, *members]]
    assert found.advantage == pytest.approx(max(gaps))


def test_the_interval_of_a_share_is_exact():
    """Clopper and Pearson: with none of n, the upper end p has (1 - p)^n = 2.5%."""
    assert share(0, 10).high == pytest.approx(1 - 0.025 ** (1 / 10)) and share(0, 10).low == 0
    assert len(roc(np.zeros(3), np.zeros(3)).caught) == len(RATES)
