"""A sweep's record as one self-contained HTML page, and its plot as a PNG."""

import io
import math
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from fglfast.base.files import write_atomic
from fglfast.lab.tuning.records import Trial, Tuned
from fglfast.report.render import BLUE, GREY, RED, empty_figure, finished, render, svg

DOTS_PER_INCH = 150


def write_page(tuned: Tuned, command: str, out: Path) -> None:
    """Write `tune.html`, with the command line that draws the winner's data set, and `pareto.png` into a folder.

    The same input gives the same page.
    """
    buffer = io.BytesIO()
    draw(tuned).savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    write_atomic(out / "pareto.png", buffer.getvalue())
    accuracy = tuned.best.accuracy
    view = {
        "tuned": tuned,
        "command": command,
        "curve": svg(partial(draw, tuned)),
        "foretold": svg(partial(draw_curve, tuned)) if tuned.curve else "",
        "error": math.sqrt(accuracy * (1 - accuracy) / tuned.validation_images),
    }
    write_atomic(out / "tune.html", render("tune_page.html.j2", view))


def draw(tuned: Tuned) -> Figure:
    """Accuracy against server-seconds: every candidate that was run, the front, the budget, the winner."""
    figure, axis = empty_figure(4)
    run = [trial for trial in tuned.trials if trial.measured]
    front = [trial for trial in run if trial.on_front]
    beaten = [trial for trial in run if not trial.on_front]
    axis.scatter(*_points(beaten), color=GREY, s=22, label="a candidate")
    axis.plot(*_points(front), color=BLUE, marker="o", markersize=5, drawstyle="steps-post", label="Pareto front")
    axis.axvline(tuned.settings.budget, color=RED, linestyle="--", linewidth=1, label="budget")
    axis.plot(*_points([tuned.best]), color=BLUE, marker="*", markersize=15, linestyle="none")
    low, high = axis.get_xlim()
    left = tuned.best.seconds < (low + high) / 2  # the label has room on one side
    axis.annotate(
        tuned.best.candidate.words,
        (tuned.best.seconds, 100 * tuned.best.accuracy),
        xytext=(8 if left else -8, 9),
        textcoords="offset points",
        ha="left" if left else "right",
    )
    axis.set_xlabel("server-seconds of synthesis and training")
    axis.set_ylabel("accuracy, validation images, %")
    axis.margins(x=0.08, y=0.15)
    return finished(figure)


def draw_curve(tuned: Tuned) -> Figure:
    """Accuracy against images a class: the pilots, the law through them, and its interval."""
    figure, axis = empty_figure(3.4)
    numbers = [one.images_per_class for one in tuned.curve]
    low, high = ([100 * getattr(one, end) for one in tuned.curve] for end in ("low", "high"))
    axis.fill_between(numbers, low, high, color=BLUE, alpha=0.15, linewidth=0, label="nine times in ten")
    axis.plot(numbers, [100 * one.accuracy for one in tuned.curve], color=BLUE, label="foretold")
    trained = [pilot.images_per_class for pilot in tuned.pilots]
    axis.scatter(trained, [100 * pilot.accuracy for pilot in tuned.pilots], color=GREY, s=22, label="a pilot", zorder=3)
    axis.set_xscale("log")
    ticks = sorted({*trained, numbers[-1]})
    axis.set_xticks(ticks, [f"{number:,}" for number in ticks])
    axis.minorticks_off()
    axis.set_xlabel("synthetic images of a class")
    axis.set_ylabel("pilots' accuracy, validation images, %")
    return finished(figure)


def _points(trials: list[Trial]) -> tuple[list[float], list[float]]:
    return [trial.seconds for trial in trials], [100 * trial.accuracy for trial in trials]
