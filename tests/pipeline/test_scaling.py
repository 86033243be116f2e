"""The law of pilots, on accuracies that follow one and on a distance that is known."""

import math

import numpy as np
import pytest

from fglfast.pipeline.scaling import Law, Pilot, transport_distance

SIZES = (25, 25, 25, 25, 50, 50, 100)


def pilots(accuracy, distances=(0.0,) * 7, sizes=SIZES):
    return [
        Pilot(images_per_class=size, part=part, accuracy=accuracy(size, part), distance=distances[part])
        for part, size in enumerate(sizes)
    ]


def exact(size, part=0):
    return 1 - 0.9 * size**-0.3


def test_accuracies_on_a_law_give_that_law_and_no_interval():
    law = Law.of(pilots(exact))
    for size in (10, 100, 500, 5000):
        found = law.at(size)
        assert found.accuracy == found.low == found.high == pytest.approx(exact(size), abs=1e-6)
    assert law.at(10**30).high == pytest.approx(1.0)  # no accuracy is more


def test_the_next_thousand_images_gain_what_the_slope_says():
    law = Law.of(pilots(exact))
    step = 1e-3  # images a class, of ten classes
    assert law.gain(100, classes=10) == pytest.approx(100 * (exact(100 + step) - exact(100)) / step * 100, rel=1e-4)
    assert law.gain(law.until(0.3, classes=10), classes=10) == pytest.approx(0.3, rel=1e-2)
    assert law.until(1.0, classes=10) == law.until(0.1, classes=100)
    falling = Law.of(pilots(lambda size, part: 0.9 - 0.01 * math.log(size)))
    assert falling.until(0.1, classes=10) == 0


def test_a_pilot_that_is_always_right_has_a_law_too():
    found = Law.of(pilots(lambda size, part: 1.0)).at(1000)
    assert found.accuracy == pytest.approx(0.999) and found.high <= 1.0


def test_the_interval_holds_nine_of_ten():
    """Pilots of a known law and noise, many times: a further one lies within as often as it should."""
    draw, within = np.random.default_rng(0), 0
    for _ in range(2000):
        noise = np.exp(draw.normal(0, 0.03, 8))
        found = Law.of(pilots(lambda size, part, noise=noise: 1 - (1 - exact(size)) * noise[part])).at(500)
        within += found.low <= 1 - (1 - exact(500)) * noise[7] <= found.high
    assert 0.88 < within / 2000 < 0.92


def test_what_distances_explain_narrows_the_interval_and_moves_nothing():
    distances = (0.3, -0.2, 0.1, -0.2, 0.2, -0.2, 0.0)
    bent = pilots(lambda size, part: 1 - (1 - exact(size)) * math.exp(0.05 * distances[part]), distances)
    unmeasured = [pilot.model_copy(update={"distance": None}) for pilot in bent]
    by_size, by_both = Law.of(unmeasured), Law.of(bent)
    assert by_both.pull == pytest.approx(0.05) and by_both.noise < 1e-9 < by_size.noise
    assert by_both.at(500).accuracy == pytest.approx(by_size.at(500).accuracy, abs=1e-6)
    useless = pilots(lambda size, part: exact(size) + 0.01 * (-1) ** part, (1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 1.0))
    assert Law.of(useless).pull == 0.0


def test_three_pilots_are_enough_for_a_law():
    law = Law.of(pilots(exact, sizes=(5, 10, 10)))
    assert law.at(40).accuracy == pytest.approx(exact(40), abs=1e-6)


def test_the_distance_of_a_shifted_copy_is_the_shift_whatever_the_order():
    draw = np.random.default_rng(0)
    features_NF, labels_N = draw.normal(size=(60, 5)), np.arange(60) % 3
    shift_F = np.array([3.0, 0, 0, 4.0, 0])
    order = draw.permutation(60)
    moved = transport_distance(features_NF, labels_N, (features_NF + shift_F)[order], labels_N[order])
    assert moved == pytest.approx(5.0)
    assert transport_distance(features_NF, labels_N, features_NF[order], labels_N[order]) == pytest.approx(0)


def test_no_image_leaves_its_class_and_fewer_images_count_as_often_as_it_takes():
    zero, one = np.zeros((2, 1)), np.ones((4, 1))
    labels = np.array([0, 1])
    assert transport_distance(zero, labels, np.array([[1.0], [3.0]]), labels) == pytest.approx(2.0)
    assert transport_distance(zero[:1], labels[:1], one, np.zeros(4, np.int64)) == pytest.approx(1.0)
    halves = np.array([[0.0], [2.0]])
    assert transport_distance(halves, np.zeros(2, np.int64), one, np.zeros(4, np.int64)) == pytest.approx(1.0)
    assert transport_distance(zero, labels, one[:1], labels[1:]) == pytest.approx(1.0)  # of the class that both hold
