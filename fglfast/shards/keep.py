"""Which images of a data set are left out for their scores. None is deleted: what is left out is a list."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fglfast.base.console import note
from fglfast.base.errors import BadInputError, UsageError
from fglfast.base.files import write_atomic
from fglfast.base.untrusted import read_object
from fglfast.base.wording import some
from fglfast.shards.description import Description
from fglfast.shards.tar import check_places, read_samples, shard_name

LEFT_OUT = "left-out.json"
MOST_LIST = 256 << 20  # bytes of it
AGAIN = "delete it, and make it again with synthesize --keep"

Places = NDArray[np.int64]


@dataclass(frozen=True)
class Keep:
    """What is kept: a share of each class, those with the highest scores, or what has at least a score.

    Attributes:
        share: of each class, above 0 and up to 1, and one image at least; None where there is a bound.
        bound: the lowest score that is kept.
    """

    share: float | None
    bound: float | None

    @classmethod
    def parse(cls, text: str) -> "Keep":
        """Read `90%`, a share, or `0.5`, a bound.

        Raises:
            UsageError: it is neither.
        """
        number = text.strip().removesuffix("%")
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        share = number != text.strip()
        if not (0 < value <= 100 if share else 0 <= value <= 1):
            raise UsageError(f"--keep {text}: neither a share nor a score", "give for example 90%, or 0.5")
        return cls(value / 100, None) if share else cls(None, value)

    def leaves_out(self, scores_N: NDArray[np.float64], labels_N: NDArray[np.int64]) -> Places:
        """The places, ascending, of what is not kept; of equal scores the later image goes first."""
        if self.bound is not None:
            return np.flatnonzero(scores_N < self.bound)
        out = []
        for label in np.unique(labels_N):
            own = np.flatnonzero(labels_N == label)
            best_first = own[np.argsort(-scores_N[own], kind="stable")]
            out.append(best_first[max(1, round(float(self.share or 1) * len(own))) :])
        return np.sort(np.concatenate(out))


def read_scores(folder: Path, description: Description) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Score and label of every image [N], in order.

    Raises:
        BadInputError: a shard is missing, damaged or under another's name, or images have no score.
    """
    if description.by_place:
        check_places(folder, description.shards)
    scores, labels = [], []
    for number in range(description.shards):
        shard = folder / shard_name(number)
        for name, sample in read_samples(shard):
            score = sample.facts.get("score")
            if not isinstance(score, int | float) or not 0 <= score <= 1:
                raise BadInputError(f"{shard}: {name} has no score", "draw the images with synthesize --judge")
            scores.append(float(score))
            labels.append(sample.label)
    return np.array(scores), np.array(labels, dtype=np.int64)


def leave_out(folder: Path, description: Description, keep: str) -> Places:
    """Write down which images are left out, for all who train on them; returns their places.

    Raises:
        UsageError, BadInputError: see `Keep.parse`, `read_scores` and `_chosen`.
    """
    out = _chosen(folder, description, keep)
    write_atomic(folder / LEFT_OUT, json.dumps({"keep": keep, "plan": description.plan, "images": out.tolist()}) + "\n")
    return out


def places_left_out(folder: Path, description: Description, keep: str | None) -> Places:
    """The places of the images that are not trained on, ascending: by scores (see `Keep.parse`), else by the list."""
    return _chosen(folder, description, keep) if keep else left_out(folder, description)


def _chosen(folder: Path, description: Description, keep: str) -> Places:
    """What is left out by scores; classes of which nothing is kept are named.

    Raises:
        BadInputError: nothing at all is kept.
    """
    scores_N, labels_N = read_scores(folder, description)
    out = Keep.parse(keep).leaves_out(scores_N, labels_N)
    if len(out) == len(scores_N):
        raise BadInputError(
            f"{folder}: --keep {keep} leaves no image, as the highest score is {scores_N.max():g}",
            "give a lower score, or a share such as 90%",
        )
    gone = np.setdiff1d(labels_N, np.delete(labels_N, out))
    if names := [name for label, name in enumerate(description.class_names) if label in gone]:
        note(f"--keep {keep} leaves no image of {some(names)}; a share such as 90% keeps some of each class")
    return out


def left_out(folder: Path, description: Description) -> Places:
    """The places of the images that are left out, ascending; none where there is no list.

    Raises:
        BadInputError: the list is damaged, or of other images.
    """
    path = folder / LEFT_OUT
    if not path.exists():
        return np.empty(0, dtype=np.int64)
    listed = read_object(path, MOST_LIST, AGAIN)
    images = listed.get("images")
    if listed.get("plan") != description.plan:
        raise BadInputError(f"{path}: lists other images than this data set's", AGAIN)
    places = images if isinstance(images, list) else [-1]
    whole = all(type(place) is int and 0 <= place < description.images for place in places)
    if not whole or sorted(set(places)) != places:
        raise BadInputError(f"{path}: not a list of the images that are left out", AGAIN)
    return np.array(places, dtype=np.int64)
