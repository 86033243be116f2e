"""Partial transport against other solvers and closed forms, and what it must never do."""

from itertools import pairwise

import numpy as np
import pytest

from fglfast.client.partial_transport import TransportSettings, joins, nearest, scaled, transport


def log_probabilities(images, classes, seed=0, sharp=2.0):
    logits = sharp * np.random.default_rng(seed).standard_normal((images, classes))
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


def objective(plan_NK, log_P_NK, joined, asked):
    """What the module's text says is minimised, of a plan in images."""
    images, classes = plan_NK.shape
    Q = plan_NK / images
    nothing = np.maximum(1 / images - Q.sum(1), 0)  # goes to the virtual class, whose entropy counts too
    masses, wanted = Q.sum(0), Q.sum() / classes
    imbalance = (masses * np.log(np.maximum(masses, 1e-300) / wanted) - masses + wanted).sum()
    entropy = -sum((mass * (np.log(np.maximum(mass, 1e-300)) - 1)).sum() for mass in (Q, nothing))
    together = images / 2 * (Q * (joined @ Q)).sum() if joined is not None else 0.0
    return -(Q * log_P_NK).sum() + asked.imbalance * imbalance - asked.agreement * together - asked.entropy * entropy


@pytest.mark.filterwarnings("ignore:If reg_type")
@pytest.mark.parametrize("imbalance", [0.1, 1.0, 10.0])
def test_all_mass_is_what_pot_finds_for_unbalanced_classes(imbalance):
    from ot.unbalanced import sinkhorn_unbalanced

    cost = -log_probabilities(40, 5).astype(np.float64)
    even = np.full(40, 1 / 40), np.full(5, 1 / 5)
    marginals = (float("inf"), imbalance)
    expected = sinkhorn_unbalanced(*even, cost, 0.3, marginals, reg_type="entropy", numItermax=20_000, stopThr=1e-12)
    assert np.allclose(scaled(cost, 1.0, imbalance, 0.3), expected, atol=1e-6)


@pytest.mark.parametrize("rho", [0.2, 0.7])
def test_a_part_of_the_mass_is_what_pot_finds_for_equal_classes(rho):
    """With the virtual class as one more, and a weight so large that classes are filled, it is balanced transport."""
    from ot import sinkhorn

    cost = -log_probabilities(30, 4).astype(np.float64)
    found = scaled(cost, rho, 1e6, 0.5)
    masses = np.append(np.full(4, rho / 4), 1 - rho)
    expected = sinkhorn(np.full(30, 1 / 30), masses, np.c_[cost, np.zeros(30)], 0.5, stopThr=1e-12)
    assert np.allclose(found, expected[:, :4], atol=1e-6) and (found.sum(1) < 1 / 30).all()


def test_the_surest_images_come_first():
    log_P = np.log(np.array([[0.99, 0.01]] * 2 + [[0.6, 0.4]] * 6))
    plan = 8 * scaled(-log_P, 0.25, 0.0, 0.1)
    assert np.isclose(plan.sum(), 2, atol=1e-4) and plan[:2].sum() > 1.5 and plan[2:].sum(1).max() < 0.1


def test_without_any_term_an_image_is_shared_out_by_its_probabilities():
    log_P = log_probabilities(7, 3)
    asked = TransportSettings(imbalance=0.0, agreement=0.0, entropy=1.0)
    assert np.allclose(transport(log_P, None, asked), np.exp(log_P), atol=1e-5)


def test_a_weight_of_minus_one_is_the_em_of_label_shift():
    """Saerens et al.: the classes' shares, then the posteriors under those; a round each."""
    log_P = log_probabilities(200, 4, sharp=1.0)
    posteriors = np.exp(log_P)
    for rounds in range(1, 7):
        asked = TransportSettings(imbalance=-1.0, agreement=0.0, first=1.0, rounds=rounds)
        assert np.allclose(one_call(log_P, None, asked), posteriors, atol=1e-5)
        posteriors = np.exp(log_P) * posteriors.mean(0)
        posteriors /= posteriors.sum(1, keepdims=True)


def test_rounds_of_one_mass_never_raise_the_objective():
    log_P, features = log_probabilities(60, 4), np.random.default_rng(1).standard_normal((60, 3)).astype(np.float32)
    joined = joins(features, 5)
    for imbalance in (-1.0, 0.0, 0.5):
        values = []
        for rounds in range(1, 12):
            asked = TransportSettings(
                imbalance=imbalance, agreement=4.0, first=0.8, mass=0.8, rounds=rounds, neighbours=5
            )
            values.append(objective(one_call(log_P, joined, asked), log_P, joined, asked))
        assert all(later <= before + 1e-6 for before, later in pairwise(values)), values
        assert values[-1] < values[0] - 1e-3


def one_call(log_P, joined, asked):
    """The plan after so many rounds and no more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fglfast.client.partial_transport.MOST_SETTLING", 0)
        patch.setattr("fglfast.client.partial_transport.SETTLED", 0.0)
        return transport(log_P, joined, asked)


def test_neighbours_settle_what_the_classifier_does_not_know():
    """Two clusters; of each, the classifier is sure of a few and says the wrong thing of the others."""
    rng = np.random.default_rng(0)
    true = np.repeat([0, 1], 50)
    features = np.eye(2)[true] + 0.05 * rng.standard_normal((100, 2))
    sure = np.arange(100) % 50 < 10
    odds = np.where(sure, 6.0, -0.4) * (2 * true - 1)
    log_P = -np.log1p(np.exp(np.stack([odds, -odds], 1)))
    assert (log_P.argmax(1) == true).mean() == 0.2
    joined = joins(features.astype(np.float32), 20)
    found = transport(log_P, joined, TransportSettings(imbalance=0.0, agreement=4.0, entropy=0.1))
    assert (found.argmax(1) == true).all()


def test_joins_are_symmetric_positive_and_of_whatever_there_is():
    features = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    joined = joins(features, 3).toarray()
    assert np.allclose(joined, joined.T) and np.linalg.eigvalsh(joined).min() > -1e-9
    assert np.linalg.eigvalsh(joined).max() < 1 + 1e-9
    assert joins(features[:2], 10).toarray().tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert np.isfinite(joins(np.zeros((3, 4), np.float32), 2).toarray()).all()


def test_the_nearest_are_found_in_batches(monkeypatch):
    features = np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    alike = units @ units.T - 9 * np.eye(30)
    expected = np.sort(np.argsort(-alike, axis=1)[:, :4], axis=1)
    for at_once in (1 << 24, 70, 1):
        monkeypatch.setattr("fglfast.client.partial_transport.AT_ONCE", at_once)
        assert np.array_equal(np.sort(nearest(features, 4), axis=1), expected)


def test_extreme_probabilities_and_a_sharp_plan_are_numbers():
    log_P = np.array([[0.0, -400.0], [-400.0, 0.0], [-0.7, -0.7]], np.float32)
    for imbalance in (-1.0, 0.0, 1e6):
        asked = TransportSettings(imbalance=imbalance, agreement=0.0, entropy=0.1)
        plan = transport(log_P, None, asked)
        assert np.isfinite(plan).all() and np.allclose(plan.sum(1), 1, atol=1e-6)
