"""What the benchmark of routing says of itself, without measuring."""

from benchmarks.columns import routed
from benchmarks.routed import KEPT, UNSEEN
from fglfast.images.transformations import TRANSFORMATIONS


def test_no_domain_that_is_measured_is_in_the_inventory():
    assert not set(KEPT) & set(UNSEEN) and set(UNSEEN) <= set(TRANSFORMATIONS) and "unchanged" in KEPT


def test_the_table_has_a_line_for_what_was_sent():
    runs = [{"test": 0.1, "bytes": 1000, "seconds": 5.0}, {"test": 0.3, "bytes": 2000, "seconds": 6.0}]
    head, lines = routed({"rows": [{"domain": "inverted", "prompts": "routed", "runs": runs}]})
    assert len(head) == len(lines[0]) and lines[0][:2] == ("inverted", "routed") and lines[0][3] == "1,500"
