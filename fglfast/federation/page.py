"""The arena's record as one self-contained HTML page. Knows no method and no measurement."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from fglfast.federation.arena import Arena
from fglfast.federation.experiment import Method
from fglfast.federation.methods import Result
from fglfast.federation.rounds import Row
from fglfast.federation.summary import TITLES, summarise
from fglfast.files import write_atomic
from fglfast.report import HUES, render

AXES: tuple[tuple[str, Callable[[Row], float], bool], ...] = (
    ("round", lambda row: row.round, False),
    ("bytes uploaded by all clients", lambda row: row.bytes_up, True),
    ("server-seconds", lambda row: row.server_seconds, True),
)
MOST_CLIENTS = 100


def write_page(arena: Arena, out: Path) -> None:
    """Write the page; the same input gives the same bytes."""
    methods = arena.experiment.methods
    by_method = {method: [result for result in arena.results if result.method == method] for method in methods}
    view: dict[str, Any] = {
        "arena": arena,
        "summaries": summarise(arena),
        "curves": [_curves(by_method, name, value, wide) for name, value, wide in AXES],
        "images": next(iter(arena.images.values()))[:MOST_CLIENTS],
        "by_client": {TITLES[method]: found[0].rows[-1].by_client for method, found in by_method.items()},
        "delivery": max(result.model_bytes for result in arena.results) * len(next(iter(arena.images.values()))),
        "colours": [f"hsl({(index * HUES) % 360:.0f} 55% 55%)" for index in range(len(arena.class_names))],
    }
    view["by_client"].pop(TITLES["centralized"], None)  # one client that holds everything
    write_atomic(out, render("arena.html.j2", view))


def _curves(by_method: dict[Method, list[Result]], name: str, value: Callable[[Row], float], wide: bool) -> str:
    """Validation accuracy of each method and seed against something that it spends, as a data URI of an SVG."""
    with mpl.rc_context({"svg.hashsalt": "fglfast", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(7, 3), layout="constrained")
        axis = figure.subplots()
        for index, (method, results) in enumerate(by_method.items()):
            if wide and method in ("centralized", "local"):
                continue  # they neither send nor have a server
            for number, result in enumerate(results):
                spent = [max(1.0, value(row)) if wide else value(row) for row in result.rows]
                accuracy = [100 * row.accuracy for row in result.rows]
                label = TITLES[method] if number == 0 else None
                axis.plot(spent, accuracy, color=f"C{index}", label=label, marker="o", markersize=2.5, linewidth=1)
        if wide:
            axis.set_xscale("log")
        axis.set_xlabel(name)
        axis.set_ylabel("accuracy, clients' held-out images, %")
        axis.legend(frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
