"""One self-contained HTML page of a run. Knows only the record and two sets of sample images."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from fglfast.base.files import write_atomic
from fglfast.pipeline.record import RunRecord

Samples = Mapping[str, Sequence[NDArray[np.uint8]]]

MOST_CONFUSION = 20  # classes that a full confusion matrix is readable for
MOST_ROWS = 40
HUES = 137.508  # degrees; the golden angle keeps neighbours apart


def write_report(record: RunRecord, synthetic: Samples, real: Samples, out: Path) -> None:
    """Write the page; the same input gives the same bytes.

    Args:
        record: the run.
        synthetic: a few synthetic images [S,S,3] of each class.
        real: a few real test images of each class.
        out: path of the HTML file.
    """
    write_atomic(out, render("report.html.j2", _view(record, synthetic, real)))


def render(template: str, view: Mapping[str, Any]) -> str:
    """A page from a template in `assets` and what it shows."""
    loader = jinja2.PackageLoader("fglfast", "assets")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(size=_size, percent=_percent, number=_number)
    return environment.get_template(template).render(view)


def _view(record: RunRecord, synthetic: Samples, real: Samples) -> dict[str, Any]:
    seconds = sum(stage.seconds for stage in record.stages)
    upload = max((client.upload_bytes for client in record.clients), default=0)
    evaluation = record.evaluation
    full = len(evaluation.confusion) <= MOST_CONFUSION
    return {
        "record": record,
        "seconds": seconds,
        "upload": upload,
        "round_bytes": 2 * record.model_bytes,
        "upload_ratio": record.model_bytes / upload if upload else 0,
        "stages": [(stage, stage.seconds / seconds if seconds else 0) for stage in record.stages],
        "clients": record.clients[:MOST_ROWS],
        "colours": colours(len(record.class_names)),
        "grids": [
            (name, sprite(synthetic.get(name, ())), sprite(real.get(name, ())))
            for name in record.class_names[:MOST_ROWS]
        ],
        "curve": svg(partial(_curve, record)) if record.history else "",
        "per_class": sorted(evaluation.per_class, key=lambda entry: (entry.accuracy is None, entry.accuracy))[
            :MOST_ROWS
        ],
        "confusion": evaluation.confusion if full else (),
        "confused": [] if full else _largest_confusions(record),
    }


def sprite(images: Sequence[NDArray[np.uint8]]) -> str:
    """Images side by side as a PNG data URI; empty without images."""
    if not images:
        return ""
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(list(images), axis=1)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def colours(count: int) -> list[str]:
    """Of classes, neighbours far apart, as CSS."""
    return [f"hsl({(index * HUES) % 360:.0f} 55% 55%)" for index in range(count)]


def svg(draw: Callable[[], Figure]) -> str:
    """What a function draws, as a data URI of an SVG; the same figure gives the same bytes."""
    with mpl.rc_context({"svg.hashsalt": "fglfast", "svg.fonttype": "none", "font.size": 9}):
        buffer = io.BytesIO()
        draw().savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _curve(record: RunRecord) -> Figure:
    """Training loss and synthetic validation accuracy by epoch."""
    epochs = [row.epoch for row in record.history]
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    left = figure.subplots()
    left.plot(epochs, [row.train_loss for row in record.history], color="#8a8f98")
    left.set_xlabel("epoch")
    left.set_ylabel("training loss", color="#6b7078")
    scored = [(row.epoch, row.val_accuracy) for row in record.history if row.val_accuracy is not None]
    if scored:
        right = left.twinx()
        right.plot(*zip(*scored, strict=True), color="#2f6fde")
        right.set_ylabel("accuracy, held-out synthetic", color="#2f6fde")
    for axis in figure.axes:
        axis.spines["top"].set_visible(False)
    return figure


def _largest_confusions(record: RunRecord) -> list[tuple[str, str, int]]:
    names = [entry.name for entry in record.evaluation.per_class]
    pairs = [
        (names[row], names[column], count)
        for row, counts in enumerate(record.evaluation.confusion)
        for column, count in enumerate(counts)
        if row != column and count
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:30]


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return ""


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"


def _number(value: float) -> str:
    return f"{value:,.0f}"
