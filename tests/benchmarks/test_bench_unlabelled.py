"""What the benchmark of clients without labels works out of labels, and how it shows it."""

import numpy as np

from benchmarks.columns import unlabelled
from benchmarks.unlabelled import ARGMAX, CHOSEN, Seen, judged, label, plan
from fglfast.client.pseudo_labels import LabelSettings, PseudoLabels


def client(truth, log_P_NK):
    truth = np.array(truth)
    return Seen(np.arange(len(truth)), truth, np.asarray(log_P_NK, np.float32), None)


def test_classes_counts_and_labels_are_judged():
    truth = [0] * 100 + [1] * 3
    counts = np.array([95, 0, 8])
    found = PseudoLabels(np.array([0] * 95 + [2] * 8), np.ones(103), np.arange(103) < 100, counts)
    facts = judged([client(truth, np.zeros((103, 3)))], [found])
    assert facts["right"] == 95 / 103 and facts["left_out"] == 3 / 103
    assert facts["f1"] == 0.5 and facts["missed"] == facts["invented"] == 1
    assert facts["near"] == 1.0 and facts["worst"] == 0.05  # the class of three is not large


def test_the_classifiers_own_answers_are_whole_images():
    seen = client([0, 1], np.log([[0.6, 0.4], [0.1, 0.9]]))
    assert plan(ARGMAX, seen, LabelSettings()).tolist() == [[1, 0], [0, 1]]
    settings = {"imbalance": 0.0, "agreement": 0.0, "confidence": 0.7, "least_images": 1}
    assert label(CHOSEN, seen, settings).kept.tolist() == [False, True]


def test_the_table_leaves_out_what_was_not_trained():
    run = {"right": 0.9, "left_out": 0.1, "f1": 0.8, "near": 1.0}
    rows = [
        {"labels": "labelled", "runs": [{"seed": 0}]},
        {"labels": "argmax", "runs": [run, run]},
        {"labels": "transport", "runs": [run | {"global": 0.7}]},
    ]
    head, lines = unlabelled({"rows": rows})
    assert len(lines) == 2 and all(len(line) == len(head) for line in lines)
    assert lines[0][1] == "90.0% (90.0% to 90.0%)" and lines[0][-1] == "–" and lines[1][-1] == "70.0%"
    rows[0]["runs"][0]["global"] = 0.75
    assert unlabelled({"rows": rows})[1][0][-1] == "75.0%"
