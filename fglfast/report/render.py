"""What all pages share: templates, pictures inside the page, figures, colours."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from fglfast.base.wording import size

HUES = 137.508  # degrees; the golden angle keeps neighbours apart
GREY, BLUE, RED = "#8a8f98", "#2f6fde", "#c0392b"


def render(template: str, view: Mapping[str, Any]) -> str:
    """A page from a template beside this file and what it shows."""
    loader = jinja2.PackageLoader("fglfast.report", "")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(size=size, percent=_percent, number=_number)
    return environment.get_template(template).render(view)


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


def empty_figure(height: float, width: float = 9) -> tuple[Figure, Axes]:
    """A figure of so many inches and its only axis."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def finished(figure: Figure) -> Figure:
    """A figure without its upper and right edge, and beside it the names of what it shows, if it shows anything."""
    [axis] = figure.axes
    axis.spines[["top", "right"]].set_visible(False)
    if axis.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def svg(draw: Callable[[], Figure]) -> str:
    """What a function draws, as a data URI of an SVG; the same figure gives the same bytes."""
    with mpl.rc_context({"svg.hashsalt": "fglfast", "svg.fonttype": "none", "font.size": 9}):
        buffer = io.BytesIO()
        draw().savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"


def _number(value: float) -> str:
    return f"{value:,.0f}"
