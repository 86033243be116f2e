"""The HTML page of a one-shot run, from its record and its images."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fglfast.base.files import write_atomic
from fglfast.base.wording import beside
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import LabelledImages
from fglfast.pipeline.record import RunRecord
from fglfast.report.clients_view import clients_view
from fglfast.report.render import BLUE, GREY, colours, empty_figure, render, sprite, svg
from fglfast.shards.description import read_description
from fglfast.shards.tar import decode_image, read_samples, shard_name
from fglfast.synthesis.drawn import Drawn

Samples = Mapping[str, Sequence[NDArray[np.uint8]]]

MOST_CONFUSION = 20  # classes that a full confusion matrix is readable for
MOST_ROWS = 40  # classes or clients that a page shows one by one
MOST_PAIRS = 30  # classes taken for one another
SHOWN = 8  # images a class


def write_run_page(out: Path) -> Path:
    """Write `out/report.html` from the run's record and its images.

    Raises:
        BadInputError: `out` holds no finished run, or its test images are gone.
    """
    record = RunRecord.from_json(out / "run.json")
    shown, page = least_accurate(record), out / "report.html"
    synthetic = synthetic_samples(out / "synthetic", record.class_names, shown)
    size = next((len(images[0]) for images in synthetic.values() if images), 0)
    real, drawn = real_samples(read_dataset(record.test_source), size, shown), Drawn.of(out / "synthetic")
    write_report(record, synthetic, real, page, drawn if drawn.by_content else None)
    return page


def write_report(record: RunRecord, synthetic: Samples, real: Samples, out: Path, drawn: Drawn | None = None) -> None:
    """Write the page with a few images [S,S,3] of each class; the same input gives the same bytes.

    Of clients it shows something where `drawn` says what the synthetic images were drawn of.
    """
    clients = clients_view(drawn) if drawn else None
    write_atomic(out, render("run_page.html.j2", {**_view(record, synthetic, real), "clients": clients}))


def least_accurate(record: RunRecord) -> list[str]:
    """The classes that the page shows one by one: all, or of many those that the model names worst; worst first."""
    found = record.evaluation.per_class
    ranked = sorted(found, key=lambda name: (found[name].accuracy is None, found[name].accuracy))
    return ranked[:MOST_ROWS]


def _view(record: RunRecord, synthetic: Samples, real: Samples) -> dict[str, Any]:
    seconds = sum(stage.seconds for stage in record.stages)
    upload = max((client.upload_bytes for client in record.clients), default=0)
    evaluation = record.evaluation
    shown, settings = least_accurate(record), dict(record.settings)
    many = len(evaluation.class_names) > MOST_CONFUSION
    return {
        "record": record,
        "seconds": seconds,
        "upload": upload,
        "round_bytes": 2 * record.model_bytes,
        "upload_beside": beside(upload, record.model_bytes),
        "stages": [(stage, stage.seconds / seconds if seconds else 0) for stage in record.stages],
        "most": MOST_ROWS,
        "colours": colours(len(record.class_names)),
        "grids": [
            (name, sprite(synthetic.get(name, ())), sprite(real.get(name, ())))
            for name in sorted(shown, key=record.class_names.index)
        ],
        "curve": svg(partial(_curve, record)) if record.history else "",
        "per_class": [(name, evaluation.per_class[name]) for name in shown],
        "facts": (settings, settings.pop("train", {}), record.machine, record.versions),
        "matrix": not many,
        "confused": _confusions(record) if many else (),
        "most_confused": MOST_PAIRS,
    }


def _curve(record: RunRecord) -> Figure:
    """Training loss and synthetic validation accuracy by epoch."""
    epochs = [row.epoch for row in record.history]
    figure, left = empty_figure(2.6, width=7)
    left.plot(epochs, [row.train_loss for row in record.history], color=GREY)
    left.set_xlabel("epoch")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_ylabel("training loss", color="#6b7078")
    scored = [(row.epoch, row.val_accuracy) for row in record.history if row.val_accuracy is not None]
    if scored:
        right = left.twinx()
        right.plot(*zip(*scored, strict=True), color=BLUE)
        right.set_ylabel("accuracy, held-out synthetic", color=BLUE)
    for axis in figure.axes:
        axis.spines["top"].set_visible(False)
    return figure


def _confusions(record: RunRecord) -> list[tuple[str, str, int]]:
    """Every class that was taken for another, and how often; most often first."""
    names = record.evaluation.class_names
    pairs = [
        (names[row], names[column], count)
        for row, counts in enumerate(record.evaluation.confusion)
        for column, count in enumerate(counts)
        if row != column and count
    ]
    return sorted(pairs, key=lambda pair: -pair[2])


def synthetic_samples(folder: Path, class_names: tuple[str, ...], wanted: Sequence[str], count: int = SHOWN) -> Samples:
    """The first images of some classes [S,S,3], in plan order: classes alternate there, so that they come early."""
    samples: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in wanted}
    shards = map(shard_name, range(read_description(folder).shards))
    drawn = chain.from_iterable(read_samples(folder / shard) for shard in shards)
    for _, sample in islice(drawn, count * len(class_names)):
        row = samples.get(class_names[sample.label])
        if row is not None and len(row) < count:
            row.append(np.asarray(decode_image(sample.image)))
    return samples


def real_samples(test: LabelledImages, size: int, wanted: Sequence[str], count: int = SHOWN) -> Samples:
    """The first test images of some classes [size,size,3]."""
    return {
        name: [test.pixels(int(index), size) for index in np.flatnonzero(test.labels == label)[:count]]
        for label, name in enumerate(test.class_names)
        if name in wanted
    }
