"""The benchmark of label checks: areas, what equal seconds pay for, and its table."""

import json

import numpy as np
import pytest

from benchmarks import label_arms
from benchmarks.few_step_columns import labels
from benchmarks.label_arms import Pool, accuracies, file_of
from benchmarks.labels import area

TITLE = "loss of mini, 2 levels"


def test_the_area_is_the_share_of_pairs_in_order():
    assert area(np.array([0.1, 0.4]), np.array([0.4, 0.9])) == 7 / 8
    assert area(np.array([0.5]), np.array([0.5, 0.5])) == 0.5


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Two classes of ten images, the first of each scored lowest; checking costs as much as drawing."""
    pool = Pool(np.zeros((20, 4, 4, 3), np.uint8), np.arange(20) % 2, 1.0, tmp_path)
    scores = [0.0, 0.0, *np.linspace(0.1, 1, 18)]
    (tmp_path / file_of(TITLE, 20)).write_text(json.dumps({"scores": scores}))
    trained = []
    monkeypatch.setattr(label_arms, "public_accuracy", lambda images, *_: trained.append(len(images)) or 0.8)
    monkeypatch.setattr(label_arms, "_spent", iter(np.arange(100) * 20.0).__next__)
    judges = [{"title": TITLE, "images": 20, "seconds": 1.0, "area": {"wrong": 0.9, "swapped": 0.95}}]
    judges += [{"title": "of a part", "images": 4, "seconds": 1.0, "area": {"wrong": 0.8, "swapped": 0.85}}]
    run = {"generator": "mini", "seed": 0, "wrong": 0.1, "draw": 2.0, "judges": judges}
    return run, accuracies(pool, run, ("bag", "shoe"), None), trained


def test_equal_seconds_pay_for_fewer_images_that_are_checked(found):
    arms = {arm["title"]: arm["images"] for arm in found[1]["arms"]}
    assert arms == {
        "unchecked, equal seconds": 20,
        "unchecked, equal images": 18,
        f"{TITLE}, equal images": 18,
        f"{TITLE}, equal seconds": 10,  # the best five of six a class: (1 + 1) / (1 + 1 + 0.9) of ten are paid for
    }
    assert found[2] == [20, 18, 18, 10]


def test_the_table_shows_areas_costs_and_accuracies(found):
    head, rows = labels({"runs": [found[0]], "trained": [found[1]]})
    assert all(len(row) == len(head) for row in rows)
    assert [row[1] for row in rows] == ["unchecked", TITLE, "of a part"]
    assert rows[1][2:] == ("0.900", "0.950", "50%", "80.0%", "80.0%") and rows[2][5:] == ("", "")
    assert labels({"runs": [found[0]]})[1][1][5:] == ("", "")
