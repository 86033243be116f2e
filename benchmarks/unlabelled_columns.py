"""What the table of clients without labels shows of its results."""

from collections.abc import Sequence
from typing import Any

from benchmarks.cells import Table, spread

NAMES = {
    "labelled": "true labels",
    "argmax": "the classifier's own answers",
    "classes alike": "transport, classes pulled to be alike (SP2OT)",
    "EM": "EM of the classes' shares, no neighbours",
    "transport": "transport as `embed --unlabelled` has it",
}


def unlabelled(result: dict[str, Any]) -> Table:
    """A way to label a line: medians over the seeds, and where those lie."""
    rows: list[Sequence[str]] = []
    for row in result["rows"]:
        runs, trained = row["runs"], [run["global"] for run in row["runs"] if "global" in run]
        if row["labels"] != "labelled":
            figures = [spread([run[key] for run in runs]) for key in ("right", "left_out", "f1", "near")]
        elif trained:
            figures = ["–"] * 4
        else:
            continue
        rows.append((NAMES[row["labels"]], *figures, spread(trained) if trained else "–"))
    head = ("labels by", "right", "left out", "classes held, F1", "counts within 10%", "global model")
    return head, rows
