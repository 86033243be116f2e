"""Labels of clients that hold a few classes, few images, or what the classifier never saw."""

from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from PIL import Image

from fglfast.base.errors import BadInputError, FglError
from fglfast.client.pseudo_labels import LabelSettings, doubts, labelled, labels_of, pseudo_labels
from fglfast.images.labelled import LabelledImages

NAMES = ("ant", "bee", "cat", "dog")


def seen(counts, noise=0.6, seed=0):
    """Images of so many of each class, as a classifier that errs sees them: features, log probabilities, truth."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(counts)), counts)
    features = (np.eye(len(counts))[truth] + 0.3 * rng.standard_normal((len(truth), len(counts)))).astype(np.float32)
    logits = 3 * (features + noise * rng.standard_normal(features.shape)).astype(np.float32)
    return features, logits - np.log(np.exp(logits).sum(1, keepdims=True)), truth


def test_a_client_of_two_classes_is_found_to_hold_two():
    features, log_P, truth = seen((300, 0, 60, 0), noise=0.5)
    plain = (log_P.argmax(1) == truth).mean()
    found = pseudo_labels(features, log_P, LabelSettings())
    assert (found.labels == truth).mean() > 0.95 > plain + 0.05
    assert (found.counts > 0).tolist() == [True, False, True, False]
    assert abs(found.counts[0] - 300) <= 30 and abs(found.counts[2] - 60) <= 6
    assert found.counts.dtype == np.int64 and ((found.confidences >= 0) & (found.confidences <= 1 + 1e-6)).all()


def test_a_classifier_that_is_hardly_surer_of_one_class_than_of_another_is_said_to_be():
    """Transport then gives all images to a few classes, and is sure of it."""
    features, log_P, truth = seen((100,) * 8)
    unsure = log_P / 20 - np.log(np.exp(log_P / 20).sum(1, keepdims=True))
    found = pseudo_labels(features, unsure, LabelSettings())
    assert (found.labels == truth).mean() < 0.5 < (unsure.argmax(1) == truth).mean()
    assert "classifier itself" in doubts(found, unsure) and "at 1" in doubts(found, unsure)
    assert not doubts(pseudo_labels(features, log_P, LabelSettings()), log_P)


def test_a_client_of_all_classes_keeps_them():
    features, log_P, truth = seen((100, 100, 100, 100))
    found = pseudo_labels(features, log_P, LabelSettings())
    assert (found.counts > 80).all() and (found.labels == truth).mean() >= (log_P.argmax(1) == truth).mean()


@pytest.mark.parametrize("counts", [(0, 10, 0, 0), (5, 5, 0, 0), (0, 0, 1, 0)])
def test_few_images_and_one_class_alone(counts):
    features, log_P, truth = seen(counts, noise=0.1)
    found = pseudo_labels(features, log_P, LabelSettings(least_images=1))
    assert found.counts.tolist() == list(counts) and (found.labels == truth).all() and found.kept.all()


def test_a_class_that_the_classifier_never_saw_stays_out_as_far_as_it_is_unsure():
    """Images of a fifth class look a little like all: with a mass below one they are what is left out."""
    features, log_P, _ = seen((100, 100, 0, 0), noise=0.1)
    strange = np.full((40, 4), np.log(0.25), np.float32)
    everything = np.concatenate([log_P, strange])
    away = np.concatenate([features, np.full((40, 4), -1, np.float32)])
    asked = LabelSettings(imbalance=0.0, mass=0.8, entropy=0.1, confidence=0.6)
    found = pseudo_labels(away, everything, asked)
    assert found.kept[:200].mean() > 0.9 and not found.kept[200:].any()
    assert (found.counts[:2] > 80).all() and not found.counts[2:].any()


def test_low_confidence_and_small_classes_stay_out():
    plan = np.array([[0.9, 0.1, 0.0], [0.8, 0.0, 0.0], [0.45, 0.4, 0.15], [0.0, 0.3, 0.7], [0.2, 0.1, 0.0]])
    found = labels_of(plan, LabelSettings(confidence=0.5, least_images=1))
    assert found.kept.tolist() == [True, True, False, True, False] and found.counts.tolist() == [2, 0, 1]
    fewer = labels_of(plan, LabelSettings(confidence=0.5, least_images=2))
    assert fewer.kept.tolist() == [True, True, False, False, False] and fewer.counts.tolist() == [2, 0, 0]
    # What images that stay out would add to a class is no image of it.
    small = np.array([[0.9, 0.1]] * 10 + [[0.45, 0.55]] * 4)
    assert labels_of(small, LabelSettings(confidence=0.5, least_images=5)).counts.tolist() == [9, 0]
    # Crumbs of many images are no class: none of them is labelled so.
    crumbs = np.tile([0.6, 0.4, 0.0], (10, 1))
    assert labels_of(crumbs, LabelSettings(least_images=1)).counts.tolist() == [6, 0, 0]


def test_one_image_more_may_change_the_labels_of_all_others():
    """Why noise on counts, sized for images that count alone, would hide too little here."""
    shared = np.log(np.array([[0.5, 0.5, 1e-9]] * 20))
    sure = np.log(np.array([[0.999, 0.001, 1e-9], [0.001, 0.999, 1e-9]]))
    counts = []
    for more in sure:
        log_P = np.vstack([shared, more]).astype(np.float32)
        counts.append(pseudo_labels(np.ones((21, 2), np.float32), log_P, LabelSettings(least_images=1)).counts)
    assert counts[0].tolist() == [21, 0, 0] and counts[1].tolist() == [0, 21, 0]


def test_labels_find_their_places_in_a_longer_list_of_classes():
    pixels = [Image.new("L", (4, 4), shade) for shade in range(3)]
    openers = tuple((lambda picture=picture: picture) for picture in pixels)
    images = LabelledImages(("unlabelled",), np.zeros(3, np.int64), openers, (), "here", ("a", "b", "c"))
    plan = np.array([[0.0, 1.0], [0.4, 0.3], [1.0, 0.0]])
    found = labels_of(plan, LabelSettings(least_images=1))
    chosen = labelled(images, found, NAMES, ("dog", "bee"))
    assert chosen.images.class_names == NAMES and chosen.images.labels.tolist() == [1, 3]
    assert chosen.counts.tolist() == [0, 1, 0, 1] and chosen.left_out == 1 and chosen.images.names == ("a", "c")
    nothing = labels_of(plan, LabelSettings(least_images=3))
    with pytest.raises(BadInputError, match="none of 3 images"):
        labelled(images, nothing, NAMES, ("dog", "bee"))


def test_a_classifier_that_answers_no_numbers_is_refused():
    features, log_P, _ = seen((5, 5, 0, 0))
    for wrong in (np.nan, np.inf):
        log_P[3, 1] = wrong
        with pytest.raises(BadInputError, match="NaN or infinity"):
            pseudo_labels(features, log_P, LabelSettings())


def test_tables_that_do_not_fit_are_refused_before_anything_is_made(monkeypatch):
    """100,000 images of 1,000 classes take almost five gigabytes: said, where there are four."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=4 << 30))
    features, log_P = np.broadcast_to(np.float32(1), (100_000, 8)), np.broadcast_to(np.float32(0), (100_000, 1000))
    with pytest.raises(FglError, match="100,000 images and 1,000 classes: needs"):
        pseudo_labels(features, log_P, LabelSettings())
