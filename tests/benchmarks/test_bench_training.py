"""The training loop beside plain PyTorch's, at toy size: every loop runs, and the shares are those of its times."""

import pytest

from benchmarks.training import measure


def test_all_loops_are_timed_and_compared():
    found = measure("resnet10-tiny", side=16, batch=4, steps=2, rounds=1, precision="float32")
    times = found["milliseconds"]
    assert len(times) == 6 and all(time > 0 for time in times.values()) and found["precision"] == "float32"
    assert len(found["images_per_second"]) == 4
    expected = times["plain loop, kornia"] / times["our loop, DeepSpeed"]
    assert found["share_of_plain"] == pytest.approx(expected, rel=0.01)
