"""Who gave an image, and of whom it is asked."""

import numpy as np

from fglfast.lab.audit.audited import NOBODY, asked, holders


def test_holders_are_found_by_name():
    found = holders([["b", "a"], [], ["d"]], {"a": 0, "b": 1, "c": 2, "d": 4}, 5)
    assert found.tolist() == [0, 0, NOBODY, NOBODY, 2]


def test_an_image_that_nobody_gave_is_asked_of_who_holds_its_class():
    """Class 0 lies with client 0 and, a quarter of it, with client 1; class 1 with client 2; class 2 with nobody."""
    labels = np.repeat([0, 1, 2], [4000, 20, 300])
    given = np.full(4320, NOBODY)
    given[:400], given[400:500], given[500:520], given[4000:4010] = 0, 1, NOBODY, 2
    given[100:125] = 1  # a quarter of 500 in all
    found = asked(given, labels, 3)
    assert np.array_equal(found[given != NOBODY], given[given != NOBODY])
    dealt = found[500:4000]
    assert set(dealt) == {0, 1} and abs(np.mean(dealt == 1) - 0.25) < 0.03
    assert set(found[4010:4020]) == {2} and set(found[4020:]) == {0, 1, 2}
    assert np.array_equal(found, asked(given, labels, 3)) and not np.array_equal(found, asked(given, labels, 4))
