"""bfloat16 beside float32: the difference is that of pairs."""

from benchmarks import speed_columns
from benchmarks.half import differences


def test_the_difference_is_that_of_pairs():
    rows = [{"float32": 0.80, "bfloat16": 0.81}, {"float32": 0.90, "bfloat16": 0.87}]
    found = differences(rows)
    assert (found["float32"], found["bfloat16"]) == (0.85, 0.84)
    assert (found["points"], found["least"], found["most"]) == (-1.0, -3.0, 1.0)
    [row] = speed_columns.half(found | {"rows": rows})[1]
    assert row == ("2", "85.00%", "84.00%", "-1.00 points (-3.00 to +1.00)")
