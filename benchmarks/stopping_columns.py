"""The table of the stop rule. Knows no other result."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.cells import Table


def stopping(result: dict[str, Any]) -> Table:
    """A row a setting, and the middle of all."""
    head = ("setting", "foretold", "measured", "off", "a class", "lost", "seconds", "saved")
    rows: list[Sequence[str]] = [_row(setting) for setting in result["settings"]]
    off, lost, saved = ([setting[name] for setting in result["settings"]] for name in ("error", "lost", "saved"))
    worst = f"{max(map(abs, off)):.1f} at most"
    middle = ("", "", "", worst, "", f"{median(lost):.1f}, {max(lost):.1f} at most", "", f"{median(saved):.0%}")
    return head, [*rows, ("all", *middle[1:])]


def _row(setting: dict[str, Any]) -> Sequence[str]:
    foretold, seconds = setting["foretold"], setting["seconds"]
    return (
        f"{setting['level']}, {setting['side']} px, seed {setting['seed']}",
        f"{foretold['accuracy']:.1%} ({foretold['low']:.1%} to {foretold['high']:.1%})",
        f"{setting['measured']:.1%}",
        f"{setting['error']:+.1f}",
        f"{setting['chosen']}",
        f"{setting['lost']:.1f}",
        f"{seconds['stopped']:.0f} of {seconds['all']:.0f}",
        f"{setting['saved']:.0%}",
    )
