"""ROC curves of scores whose answers are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from fglfast.lab.audit.roc import RATES, share
from fglfast.lab.audit.roc import roc as judge

scores = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=30).map(np.array)


def roc(members, others):
    """Of one model."""
    inside = np.arange(len(members) + len(others)) < len(members)
    return judge(np.concatenate([members, others])[None], inside[None])


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
    found = roc(draw.normal(1.5, 1, 8000), draw.normal(0, 1, 8000))
    assert found.auc.value == pytest.approx(norm.cdf(1.5 / np.sqrt(2)), abs=0.01)
    assert found.auc.low < norm.cdf(1.5 / np.sqrt(2)) < found.auc.high
    assert found.advantage == pytest.approx(2 * norm.cdf(0.75) - 1, abs=0.015)
    assert found.caught[0].value == pytest.approx(norm.sf(norm.isf(0.01) - 1.5), abs=0.03)


@settings(max_examples=30)
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


def federations(seed, models=10, images=200, spread=0.4):
    """Scores of models that differ in how much they remember, of images that differ in how they look."""
    draw = np.random.default_rng(seed)
    inside_SN = draw.random((models, images)) < 0.5
    gain_S1 = draw.normal(0.5, spread, (models, 1))
    return draw.normal(size=(models, images)) + gain_S1 * inside_SN, inside_SN


def test_the_interval_holds_the_area_of_models_that_were_not_seen():
    """Of normal scores whose gain is itself normal; to take all decisions as independent would hold it in 60%."""
    area = norm.cdf(0.5 / np.sqrt(2 + 0.4**2))
    found = [judge(*federations(seed)) for seed in range(30)]
    assert sum(one.auc.low < area < one.auc.high for one in found) >= 27
    assert np.mean([one.auc.high - one.auc.low for one in found]) < 0.2
    assert all(one.models == 10 and one.members + one.others == 2000 for one in found)


def test_more_models_and_more_images_narrow_the_interval_and_calls_agree():
    def width(models, images, spread):
        found = judge(*federations(0, models, images, spread))
        return found.auc.high - found.auc.low

    few = width(4, 100, 0.4)
    assert width(64, 100, 0.4) < 0.6 * few
    assert width(4, 3200, 0.4) > 0.5 * few  # four models stay four
    assert width(4, 3200, 0.0) < 0.3 * few
    assert judge(*federations(1)) == judge(*federations(1))
