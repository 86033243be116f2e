"""Who has what in the benchmark of drawings, and what is chosen by held-out images."""

import io
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from benchmarks import rates, tuned
from benchmarks.arena_columns import colour
from benchmarks.colour_parties import ALIKE, nearest, parties
from fglfast.base.errors import IncompleteError
from fglfast.federation.experiment import Experiment, MethodSettings
from fglfast.federation.methods import Result
from fglfast.federation.records import RoundRow
from fglfast.images.dataset import read_dataset

THINGS = 80


def write_style(path, seed):
    """Random drawings of the same things; the first two have one name, and two others one drawing."""
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 256, (THINGS, 32, 32, 3), dtype=np.uint8)
    pixels[40:] = pixels[[40]]  # of class b all are alike
    contents = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        contents.append(buffer.getvalue())
    names = ["twin", "twin", *(f"thing {number}" for number in range(2, THINGS))]
    table = {"image": contents, "label": ["a"] * 40 + ["b"] * 40, "caption": names}
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    return path


@pytest.fixture
def held(tmp_path):
    styles = [write_style(tmp_path / f"{name}.parquet", seed) for seed, name in enumerate(("inside", "outside"))]
    return parties(*styles, tmp_path / "parties")


def captions(path):
    return [json.loads(line)["caption"] for line in path.read_text().splitlines()]


def test_no_party_has_a_drawing_of_a_test_thing_and_clients_things_are_shown_in_the_other_style_only(held):
    names, taught = captions(held.captions), captions(held.generator_captions)
    inside = {name.removesuffix(", inside") for name in taught if name.endswith(", inside")}
    outside = {name.removesuffix(", outside") for name in taught if name.endswith(", outside")}
    assert held.domain == "inside" and len(inside) + len(outside) == len(taught) == len(
        read_dataset(str(held.generator))
    )
    assert set(names) <= outside and not set(names) & inside and inside <= outside
    assert len(outside) == 59, "of 79 names, a quarter of each class is the test's alone"
    assert len(names) == len(held.read("private")) and len(held.read("public-all")) >= 59
    assert len(held.read("public")) == 6


def test_test_drawings_are_unlike_all_others(held):
    test = held.read("test")
    assert set(test.labels.tolist()) == {0}, "those of b are all alike, and others have them"
    for others in (held.read("private"), read_dataset(str(held.generator))):
        assert nearest(test, others).min() >= ALIKE
    assert nearest(test, test).max() == pytest.approx(0, abs=1e-6)


def test_a_second_call_writes_nothing(held, tmp_path):
    before = held.generator.stat().st_mtime_ns
    again = parties(tmp_path / "inside.parquet", tmp_path / "outside.parquet", tmp_path / "parties")
    assert again == held and held.generator.stat().st_mtime_ns == before


def test_a_rate_is_chosen_by_the_clients_held_out_images(tmp_path, monkeypatch):
    """By what they say, not by the test images, which say the opposite."""

    def run(experiment, out, engines):
        choice = experiment.chosen["fedavg"]
        good = (choice.learning_rate == 0.1) + 0.5 * (choice.statistics == "fixed")
        row = RoundRow(round=20, accuracy=good, test_accuracy=-good, worst_client=None, by_client=())
        assert experiment.seeds == (3,) and experiment.prompt_level == "class"
        result = Result(method="fedavg", seed=3, test_accuracy=-good, rows=(row,), model_bytes=1)
        return type("Arena", (), {"results": (result,)})

    monkeypatch.setattr(rates, "run_experiment", run)
    found = tuned.tuned(Experiment(seeds=(3, 4), prompt_level="learned"), "fedavg", tmp_path, tmp_path)
    assert found.chosen == {"fedavg": MethodSettings(learning_rate=0.1, statistics="fixed")} and found.seeds == (3, 4)


def test_a_rate_at_which_training_diverges_is_not_chosen(tmp_path, monkeypatch, capsys):
    def run(experiment, out, engines):
        raise IncompleteError("0 clients sent sound weights, 2 are needed", "")

    monkeypatch.setattr(rates, "run_experiment", run)
    assert rates.run_choice(Experiment(), "fedavg", MethodSettings(learning_rate=0.1), tmp_path, tmp_path) == ()
    assert "fedavg-learning_rate=0.1: 0 clients sent sound weights" in capsys.readouterr().err
    found = tuned.tuned(Experiment(), "fedavg", tmp_path, tmp_path)
    assert found.chosen == {"fedavg": MethodSettings(learning_rate=0.03)}  # the first of all that failed


def test_the_table_has_a_line_a_method():
    row = {"title": "FedAvg", "uploaded": 1234, "runs": [{"test": 0.25}, {"test": 0.5}, {"test": 0.75}]}
    _, lines = colour({"rows": [row, {**row, "title": "public only", "uploaded": 0}]})
    assert lines[0] == ("FedAvg", "50.0% (25.0% to 75.0%)", "1,234 B") and lines[1][2] == ""
