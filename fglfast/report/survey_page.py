"""The survey of a synthetic data set as one self-contained HTML page."""

from pathlib import Path

from fglfast.base.files import write_atomic
from fglfast.lab.survey.alike import ALIKE
from fglfast.lab.survey.survey import Alike, Surveyed
from fglfast.report.clients_view import clients_view
from fglfast.report.render import render, sprite

MOST_CLASSES = 200  # that are shown with their images


def write_page(surveyed: Surveyed, out: Path) -> None:
    """Write the page; the same input gives the same bytes."""
    survey = surveyed.survey
    counts = [found.images for found in survey.classes]
    view = {
        "survey": survey,
        "bytes": sum(found.bytes for found in survey.classes),
        "redrawn": sum(found.redrawn for found in survey.classes),
        "fewest": min(counts),
        "largest": max(counts),
        "most": MOST_CLASSES,
        "rows": [(found, sprite(surveyed.samples[found.name])) for found in survey.classes[:MOST_CLASSES]],
        "clients": clients_view(surveyed.drawn) if surveyed.drawn else None,
        "left_out": [(sprite([pixels]), name, score) for pixels, name, score in surveyed.left_out],
        "alike": ALIKE,
        "twins": [_shown(pair) for pair in surveyed.twins],
        "copies": [_shown(pair) for pair in surveyed.copies],
    }
    write_atomic(out, render("survey_page.html.j2", view))


def _shown(pair: Alike) -> tuple[str, str, float]:
    classes = " and ".join(dict.fromkeys((pair.one_class, pair.other_class)))
    return sprite([pair.one, pair.other]), classes, pair.levels
