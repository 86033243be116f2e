"""Public transformations of images."""

import numpy as np
import pytest

from fglfast.images.transformations import TRANSFORMATIONS, transformed

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_each_makes_one_image_of_the_same_size(name):
    made = transformed(IMAGE, name)
    assert made.shape == IMAGE.shape and made.dtype == np.uint8
    assert np.array_equal(made, transformed(IMAGE.copy(), name)), "equal images make equal ones"
    assert np.array_equal(made, IMAGE) == (name == "unchanged")


def test_what_they_do_is_what_their_names_say():
    assert np.array_equal(transformed(IMAGE, "inverted"), 255 - IMAGE)
    assert np.array_equal(transformed(IMAGE, "rotated"), np.rot90(IMAGE))
    assert np.array_equal(transformed(IMAGE, "rotated-right"), np.rot90(IMAGE, -1))
    assert np.array_equal(transformed(IMAGE, "upside-down"), IMAGE[::-1, ::-1])
    assert np.array_equal(transformed(IMAGE, "other-colours"), np.roll(IMAGE, -1, axis=2))
    assert np.array_equal(transformed(IMAGE, "shifted")[5:, 5:], IMAGE[:-5, :-5])
    assert not transformed(IMAGE, "shifted")[:5].any()
    assert transformed(IMAGE, "brighter").mean() > IMAGE.mean() > transformed(IMAGE, "darker").mean()
    assert transformed(IMAGE, "foggy").min() >= 140
