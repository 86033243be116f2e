"""Rates chosen on public images: what is tried, what is kept, what the arena makes of it."""

import json

import numpy as np
import pytest
import tomli_w

from benchmarks import arena, rates, results_file
from fglfast.federation.experiment import MethodSettings
from fglfast.images.dataset import read_dataset

CLASSES = ("t-shirt", "bag", "ankle boot")


def test_keys_are_chosen_one_after_the_other_and_nothing_is_tried_twice():
    asked = []

    def judge(choice):
        asked.append(choice)
        return -abs(choice.learning_rate - 0.03) + (choice.statistics == "fixed")

    best, tried = rates.choose({"learning_rate": (0.1, 0.03), "statistics": ("batch", "fixed")}, judge)
    assert best == MethodSettings(learning_rate=0.03, statistics="fixed")
    assert len(asked) == len(tried) == 4 and tried[-1]["accuracy"] == pytest.approx(1.0)
    best, _ = rates.choose({"learning_rate": (0.1, 0.03)}, lambda choice: 0.5)
    assert best.learning_rate == 0.1, "the first wins a tie"
    best, tried = rates.choose({}, lambda choice: 0.5, MethodSettings(learning_rate=0.1))
    assert best.learning_rate == 0.1 and not tried, "where nothing is tried, what it was begun with"


@pytest.fixture
def results(tmp_path, monkeypatch):
    folder = tmp_path / "results"
    folder.mkdir()
    monkeypatch.setattr(results_file, "RESULTS", folder)
    return folder


@pytest.fixture
def preset(tmp_path, tiny_arch, tiny_recipe):
    file = tmp_path / "tiny.toml"
    asked = {
        "partition": {"kind": "iid", "clients": 2},
        "recipe": tiny_recipe,
        "images_per_class": 8,
        "train": {"arch": tiny_arch, "image_size": 16, "epochs": 1, "batch_size": 8},
        "local": {"epochs": 1, "batch_size": 8},
        "rounds": {"fedavg": 1, "fgl": 1, "fine_tune_epochs": 1},
    }
    file.write_text(tomli_w.dumps(asked))
    return str(file)


@pytest.fixture
def data(tmp_path):
    """Images of a class are of one shade; the first pixel tells them apart."""
    labels = np.repeat(np.arange(3), 20)
    images = np.broadcast_to((80 * labels + 20)[:, None, None], (60, 16, 16)).astype(np.uint8)
    images[:, 0, 0] = np.arange(60)
    public = {"public_images": images, "public_labels": labels, "class_names": np.array(CLASSES)}
    np.savez(tmp_path / "data.npz", **public, private_images=images[::2], private_labels=labels[::2])
    return str(tmp_path / "data.npz")


def test_rates_are_chosen_on_public_images_and_read_by_the_arena(results, preset, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rates, "TUNED", ("fedavg", "fgl-rounds"))
    monkeypatch.setattr(rates, "ALIKE", {"fedprox": "fedavg"})
    monkeypatch.setattr(rates, "AXES", {"learning_rate": (1e-6, 0.05)})
    monkeypatch.setattr(rates, "MU", {"proximal_mu": (0.1,)})
    work, asked = tmp_path / "work", []
    rates.main(preset, f"{data}:public", data, 1, work, tmp_path / "engines")
    found = json.loads((results / "rates-tiny.json").read_text())
    assert [row["method"] for row in found["tried"]] == ["fedavg"] * 2 + ["fgl-rounds"] * 2 + ["fedprox"]
    assert found["images"] == 30 and found["judges"] <= 30, "as many public images are dealt as there are private ones"
    rate = found["chosen"]["fedavg"]["learning_rate"]
    assert found["chosen"]["fedprox"] == {"learning_rate": rate, "proximal_mu": 0.1}
    assert set(found["chosen"]["fgl-rounds"]) == {"learning_rate"}
    best = max(found["tried"][:2], key=lambda row: row["accuracy"])
    assert rate == best["learning_rate"]
    assert str(tmp_path) not in json.dumps(found)

    monkeypatch.setattr("fglfast.federation.loopback.LoopbackGrid.push_messages", _refuse)
    rates.main(preset, f"{data}:public", data, 1, work, tmp_path / "engines")
    assert json.loads((results / "rates-tiny.json").read_text())["tried"] == found["tried"]

    monkeypatch.setattr(arena, "run_experiment", lambda experiment, *_: asked.append(experiment) or _refuse())
    with pytest.raises(AssertionError):
        arena.main(preset, f"{data}:public", data, True, work, tmp_path / "engines")
    assert asked[0].chosen_for("fedprox").rounds.proximal_mu == 0.1 and asked[0].methods[-1] == "dense"
    assert rates.choices("fashion-skewed") == {}


@pytest.mark.parametrize(("count", "dealt", "judge"), [(30, 30, 27), (300, 48, 9)])
def test_no_image_is_dealt_and_judges(data, tmp_path, count, dealt, judge):
    public = read_dataset(f"{data}:public")
    parts = [read_dataset(path) for path in rates._parts(public, count, tmp_path / "parts")]
    assert [len(part) for part in parts] == [dealt, judge] and len(set(parts[1].counts().tolist())) == 1
    marks = [np.asarray(part.image(row))[0, 0].tolist() for part in parts for row in range(len(part))]
    assert len({str(mark) for mark in marks}) == len(marks), "each image is in one part at most"


def _refuse(*args, **kwargs):
    raise AssertionError("done already")
