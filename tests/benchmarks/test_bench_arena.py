"""Some methods of a comparison measured again, or added: the others stay as they were."""

from benchmarks import arena
from fglfast.federation.method_names import METHODS


def test_methods_that_are_measured_again_take_the_place_of_their_old_rows():
    old = {
        "command": "all",
        "summaries": [{"method": name, "test": 0.5} for name in ("fgl", "fedavg", "local")],
        "rounds": [{"method": name, "seed": seed} for name in ("fgl", "fedavg", "local") for seed in (0, 1)],
    }
    new = {
        "command": "some",
        "summaries": [{"method": name, "test": 0.75} for name in ("fedavg", "dense")],
        "rounds": [{"method": "dense", "seed": 0}, {"method": "fedavg", "seed": 7}],
    }
    found = arena.renewed(old, new, "fedavg,dense")
    assert [(line["method"], line["test"]) for line in found["summaries"]] == [
        ("fgl", 0.5),
        ("fedavg", 0.75),
        ("dense", 0.75),
        ("local", 0.5),
    ]
    assert [line["seed"] for line in found["rounds"]] == [0, 1, 7, 0, 0, 1]
    assert found["command"] == "all" and found["renewed"][0]["only"] == "fedavg,dense"
    assert list(METHODS).index("dense") < list(METHODS).index("local")
