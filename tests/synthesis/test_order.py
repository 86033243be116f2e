"""The order of a class's images against the plain definition of it, and where it is long."""

import time
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fglfast.synthesis.order import BLOCK, InTurn, RowByRow

IMAGES = st.lists(st.integers(0, 600), min_size=1, max_size=5).filter(any)


def walked(order, total):
    there = [order.at(place) for place in range(total)]
    assert [order.place(*image) for image in there] == list(range(total))
    return there


@given(IMAGES)
def test_rows_in_turn_stand_by_their_quotients(images):
    named = [(row, ordinal) for row, count in enumerate(images) for ordinal in range(count)]
    by_quotient = sorted(named, key=lambda image: (Fraction(2 * image[1] + 1, 2 * images[image[0]]), image[0]))
    assert walked(InTurn(np.array(images)), sum(images)) == by_quotient
    assert walked(RowByRow(np.array(images)), sum(images)) == named


def test_three_rows_of_known_shares():
    assert [row for row, _ in walked(InTurn(np.array([4, 2, 1])), 7)] == [0, 1, 0, 2, 0, 1, 0]


def test_ten_million_images_of_a_class_cost_a_few_blocks():
    order, begun = InTurn(np.array([9_999_990, 0, 10])), time.monotonic()
    assert order.blocks > 9_000
    for place in (0, BLOCK, 5_000_000, 9_999_999):
        assert order.place(*order.at(place)) == place
    assert abs(order.place(2, 5) - 5_500_000) <= 1 and time.monotonic() - begun < 5
