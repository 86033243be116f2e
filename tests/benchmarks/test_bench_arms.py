"""The rows of what the server reaches alone, and the columns of skews: a measurement that is not there is left out."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import arena_columns, columns, results_file
from benchmarks.global_model import public_split

RESULTS = Path(columns.__file__).parent / "results"


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(results_file, "RESULTS", tmp_path)

    def write(name, found):
        (tmp_path / f"{name}.json").write_text(json.dumps(found))

    return write


def arm(name, accuracies, **settings):
    asked = {"arch": "small", "image_size": 28, "test": "a", "recipe": "mini", "epochs": 7, "prompt_level": "class"}
    rows = [{"accuracy": each, "images": 30_000, "seconds": {"all": 9.0}} for each in accuracies]
    return {"arm": name, "settings": asked | settings, "accuracy": accuracies[0], "runs": rows}


def one_shot():
    found = arm("one-shot", [0.5])
    return found | {
        "runs": [{**found["runs"][0], "largest_upload_bytes": 10, "model_bytes": 90, "images_per_second": 2}]
    }


def test_the_headline_shows_what_was_measured_of_the_server_alone(results):
    assert len(columns.accuracy(one_shot())[1]) == 1
    results("accuracy-public-only", arm("public-only", [0.9, 0.8]))
    head, rows = columns.accuracy(one_shot())
    assert len(rows) == 2 and "public only" in rows[1][0] and "30,000" in rows[1][0] and "7 epochs" in rows[1][0]
    assert rows[1][1:4] == ("90.0%", "80.0% to 90.0%", "nothing") and len(rows[1]) == len(head)


def test_another_architecture_is_no_row_of_the_headline(results):
    results("accuracy-server-only", arm("server-only", [0.9], arch="large"))
    assert len(columns.accuracy(one_shot())[1]) == 1


def test_a_skew_that_was_measured_with_other_settings_is_no_column(results):
    skewed = json.loads((RESULTS / "arena-skewed.json").read_text())
    results("arena-skewed", skewed)
    results("arena-mild", skewed | {"summaries": skewed["summaries"][:1]})
    results("arena-iid", skewed | {"experiment": skewed["experiment"] | {"images_per_class": 1}})
    head, rows = arena_columns.arenas(skewed)
    assert "beta 0.5" in head and "iid" not in head
    assert [bool(row[head.index("beta 0.5")]) for row in rows] == [True] + [False] * (len(rows) - 1)


def test_what_each_method_got_is_said_by_skew(results):
    chosen = {"learning_rate": 0.1, "rate_decay": 0.9, "statistics": "fixed", "proximal_mu": 0.001}
    skewed = {"chosen": {"fedavg": {"learning_rate": 0.03}, "fedprox": chosen}}
    results("rates-skewed", skewed)
    results("rates-iid", {"chosen": {"fedavg": {}}})
    head, rows = arena_columns.rates(skewed)
    assert head == ("method", "beta 0.01", "iid")
    said = "rate 0.1, times 0.9 a round, mu 0.001, fixed statistics"
    assert rows == [("FedAvg", "rate 0.03", ""), ("FedProx", said, "")]


def test_only_data_with_a_public_split_has_one(tmp_path):
    few = {"public_images": np.zeros((2, 8, 8), np.uint8), "public_labels": np.arange(2), "class_names": ["a", "b"]}
    np.savez(tmp_path / "a.npz", **few)
    assert public_split("fashion") == ""
    assert public_split(str(tmp_path / "a.npz")) == f"{tmp_path / 'a.npz'}:public"
