"""The arena's record as one self-contained HTML page."""

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fglfast.base.files import write_atomic
from fglfast.federation.method_names import ALONE, FEDERATED, TITLES
from fglfast.federation.records import Arena, Result, RoundRow
from fglfast.federation.summary import gains, summarise
from fglfast.report.render import colours, empty_figure, finished, render, svg
from fglfast.report.run_page import MOST_ROWS

AXES: tuple[tuple[str, Callable[[RoundRow], float], bool], ...] = (
    ("round", lambda row: row.round, False),
    ("bytes uploaded by all clients", lambda row: row.bytes_up, True),
    ("server-seconds", lambda row: row.server_seconds, True),
)
MOST_CLIENTS = 100
COLOURS = [colormaps["tab20"](2 * index % 20 + index // 10) for index in range(20)]  # ten, then the same paler


def write_page(arena: Arena, out: Path) -> None:
    """Write the page; the same input gives the same bytes."""
    view: dict[str, Any] = {
        "arena": arena,
        "summaries": summarise(arena),
        "gains": gains(arena),
        "adapted": {
            TITLES[method]: found[0].adapted.by_client
            for method, found in arena.by_method().items()
            if found[0].adapted
        },
        "curves": [svg(partial(draw, arena, *axis)) for axis in AXES],
        "images": next(iter(arena.images.values())),
        "most_clients": MOST_CLIENTS,
        "most": MOST_ROWS,
        "by_client": {TITLES[method]: found[0].rows[-1].by_client for method, found in arena.by_method().items()},
        "delivery": max(result.model_bytes for result in arena.results) * len(next(iter(arena.images.values()))),
        "colours": colours(len(arena.class_names)),
    }
    view["by_client"].pop(TITLES["centralized"], None)  # one client that holds everything
    write_atomic(out, render("arena_page.html.j2", view))


def draw(arena: Arena, name: str, value: Callable[[RoundRow], float], spends: bool) -> Figure:
    """Accuracy of each method against something that it spends until a round: the seeds' median, and where they lie.

    Args:
        arena: what was found.
        name: of the horizontal axis.
        value: what was spent.
        spends: whether it is something that only methods with clients and a server spend, over orders of magnitude.
    """
    figure, axis = empty_figure(3.2)
    for index, (method, results) in enumerate(arena.by_method().items()):
        if method in ALONE:
            reached = statistics.median(100 * (result.rows[-1].accuracy or 0.0) for result in results)
            axis.axhline(reached, color=COLOURS[index], label=TITLES[method], linestyle="--", linewidth=1.2)
            continue
        if spends and method not in FEDERATED:
            continue
        points = _points(results, value, spends)
        if not points:
            continue
        spent, low, middle, high = zip(*points, strict=True)
        mark = "*" if len(points) == 1 else None
        axis.plot(spent, middle, color=COLOURS[index], label=TITLES[method], marker=mark, markersize=9, linewidth=1.2)
        axis.fill_between(spent, low, high, color=COLOURS[index], alpha=0.15, linewidth=0)
    if spends:
        axis.set_xscale("log")
    else:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel(name)
    axis.set_ylabel("accuracy, held-out images, %")
    return finished(figure)


def _points(
    results: Sequence[Result], value: Callable[[RoundRow], float], spends: bool
) -> list[tuple[float, float, float, float]]:
    """By round, what was spent until there, and the lowest, median and highest accuracy of those seeds that know it."""
    points = []
    for rows in zip(*(result.rows for result in results), strict=True):
        spent = statistics.median(value(row) for row in rows)
        found = [100 * row.accuracy for row in rows if row.accuracy is not None]
        if found and (spent > 0 or not spends):
            points.append((spent, min(found), statistics.median(found), max(found)))
    return points
