"""What training on the images that a check keeps gains: of equally many images, and for equal processor seconds."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.global_model import SMALL, public_accuracy
from benchmarks.results_file import once
from fglfast.images.labelled import LabelledImages
from fglfast.shards.keep import Keep

KEPT = 0.9  # of the images that are checked


@dataclass(frozen=True)
class Pool:
    """Images that one generator drew with one seed.

    Attributes:
        pixels: [N,S,S,3], classes in turn.
        labels: [N].
        seconds: that an image took to draw.
        folder: of what is found about them.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    seconds: float
    folder: Path


def accuracies(pool: Pool, run: dict[str, Any], names: Sequence[str], test: LabelledImages) -> dict[str, Any]:
    """Accuracy on real images of models trained on what each check of a run keeps.

    Of equally many images, all are checked and the best are kept, beside as many unchecked ones. For equal seconds,
    what an unchecked training on all images takes pays for drawing and checking fewer of them, the best of which are
    trained on.
    """
    classes, images = len(names), len(pool.labels)

    def arm(title: str, rows: NDArray[np.int64]) -> dict[str, Any]:
        folder = pool.folder / "trained" / title.replace(" ", "-").replace(",", "")

        def train() -> dict[str, Any]:
            shutil.rmtree(folder, ignore_errors=True)
            settings = SMALL.model_copy(update={"seed": run["seed"]})
            with processor() as spent:
                accuracy = public_accuracy(as_images(pool, names, rows), test, folder, settings)
            return {"title": title, "images": len(rows), "accuracy": accuracy, "seconds": spent[0] / len(rows)}

        found: dict[str, Any] = once(folder.with_suffix(".json"), train)
        return found

    every = np.arange(images)
    arms = [arm("unchecked, equal seconds", every), arm("unchecked, equal images", every[: round(KEPT * images)])]
    training = arms[0]["seconds"]
    for judge in run["judges"]:
        if judge["images"] < images:
            continue
        scores_N = np.array(json.loads((pool.folder / file_of(judge["title"], images)).read_text())["scores"])
        paid = (pool.seconds + training) / (pool.seconds + judge["seconds"] + KEPT * training)
        afforded = classes * int(min(1.0, paid) * images / classes)
        for which, rows in (("images", every), ("seconds", every[:afforded])):
            out = Keep(KEPT, None).leaves_out(scores_N[rows], pool.labels[rows])
            arms.append(arm(f"{judge['title']}, equal {which}", np.delete(rows, out)))
    return {"generator": run["generator"], "seed": run["seed"], "arms": arms}


def file_of(title: str, images: int) -> str:
    """Where a check's scores of so many images are kept, in a pool's folder."""
    return f"{title.replace(' ', '-').replace(',', '')}-{images}.json"


def as_images(pool: Pool, names: Sequence[str], rows: NDArray[np.int64] | None = None) -> LabelledImages:
    """Some images of a pool as a data set."""
    rows = np.arange(len(pool.labels)) if rows is None else rows
    openers = tuple(partial(Image.fromarray, pool.pixels[row]) for row in rows)
    return LabelledImages(tuple(names), pool.labels[rows], openers, (), "drawn")


@contextmanager
def processor() -> Iterator[list[float]]:
    """Seconds of processor time, this process's and its children's, of what is done inside."""
    spent = [0.0]
    before = _spent()
    yield spent
    spent[0] += _spent() - before


def _spent() -> float:
    return sum(getrusage(who).ru_utime + getrusage(who).ru_stime for who in (RUSAGE_SELF, RUSAGE_CHILDREN))
