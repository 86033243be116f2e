"""The demo's training beside others: what the table says of them."""

from benchmarks import speed_columns
from benchmarks.demo_training import WAYS, row


def test_a_way_to_train_is_a_line_with_its_settings():
    runs = [{"accuracy": accuracy, "seconds": seconds} for accuracy, seconds in ((0.8, 50.0), (0.9, 40.0), (0.7, 60.0))]
    first, larger, plain = speed_columns.demo_training({"rows": [row(way, runs) for way in WAYS]})[1]
    assert first[:5] == ("the demo's", "`resnet10-narrow`", "14", "64, 0.004", "2 px, 0%")
    assert first[5:] == ("80.0% (70.0% to 90.0%)", "50 s")
    assert larger[:5] == ("as the demo's", "`resnet18-narrow`", "12", "64, 0.004", "2 px, 0%")
    assert plain[:5] == ("`train`'s own", "`resnet18-narrow`", "20", "128, 0.002", "a sixteenth, 25%")
