"""What the table of label checks shows of its results."""

from collections.abc import Sequence
from typing import Any

from benchmarks.cells import Table, spread

UNCHECKED = "unchecked"


def labels(result: dict[str, Any]) -> Table:
    """Every generator and check: what it tells, what it costs, what training on what it keeps gains."""
    runs, trained = result["runs"], result.get("trained", [])
    rows: list[Sequence[str]] = []
    for generator in dict.fromkeys(run["generator"] for run in runs):
        own = [run for run in runs if run["generator"] == generator]
        arms = [found["arms"] for found in trained if found["generator"] == generator]
        rows.append((f"`{generator}`", UNCHECKED, "", "", "", *_accuracies(arms, UNCHECKED)))
        for place, judge in enumerate(own[0]["judges"]):
            found = [run["judges"][place] for run in own]
            areas = [spread([one["area"][which] for one in found], ".3f") for which in ("wrong", "swapped")]
            more = spread([one["seconds"] / run["draw"] for one, run in zip(found, own, strict=True)], ".0%")
            rows.append((f"`{generator}`", judge["title"], *areas, more, *_accuracies(arms, judge["title"])))
    head = (
        "generator",
        "check",
        "area, wrong",
        "area, swapped",
        "more seconds to draw",
        "equal images",
        "equal seconds",
    )
    return head, rows


def _accuracies(runs: Sequence[Sequence[dict[str, Any]]], title: str) -> tuple[str, str]:
    """Over the seeds, of equally many images and for equal seconds; empty where nothing was trained."""
    cells = []
    for which in ("images", "seconds"):
        found = [arm["accuracy"] for arms in runs for arm in arms if arm["title"] == f"{title}, equal {which}"]
        cells.append(spread(found) if found else "")
    return cells[0], cells[1]
