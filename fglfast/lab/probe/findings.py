"""Drawn images of each class against a client's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torch.nn.functional import adaptive_avg_pool2d

from fglfast.lab.probe.classifier import Classifier
from fglfast.lab.probe.verdict import ClassFinding, Share, score

Pixels = NDArray[np.uint8]
GRID = 16  # side of the averages that stand for an image where there is no classifier


@dataclass(frozen=True)
class ClassImages:
    """What is compared of one class: uint8 images [H,S,S,3], as many of each kind.

    Attributes:
        name: the class.
        images: how many the client has.
        own: some of them.
        held_out: others, which nothing learns from.
        drawn: by the generator.
    """

    name: str
    images: int
    own: Pixels
    held_out: Pixels
    drawn: Pixels


def judge(classes: Sequence[ClassImages]) -> list[ClassFinding]:
    """Ask of each class what drawn images do for held-out own ones, and what as many own ones do.

    Two small classifiers, one of drawn and one of own images, name the held-out ones. Coverage is measured in the
    features of the classifier of own images: those that tell this client's classes apart. A client of one class has
    none, and its images are compared by their colours on a grid.
    """
    by_own = by_drawn = None
    if len(classes) > 1:
        by_own = _taught([part.own for part in classes], "learn own images")
        by_drawn = _taught([part.drawn for part in classes], "learn drawn images")
    return [_finding(part, label, by_own, by_drawn, len(classes)) for label, part in enumerate(classes)]


def _taught(parts: Sequence[Pixels], name: str) -> Classifier:
    labels_N = np.repeat(np.arange(len(parts)), [len(pixels) for pixels in parts])
    return Classifier(np.concatenate(parts), labels_N, len(parts), name)


def _finding(
    part: ClassImages, label: int, by_own: Classifier | None, by_drawn: Classifier | None, classes: int
) -> ClassFinding:
    features = by_own.features if by_own else _colours
    held_out_HD = features(part.held_out)
    covered = Share(drawn=coverage(held_out_HD, features(part.drawn)), own=coverage(held_out_HD, features(part.own)))
    recognised = None
    if by_own and by_drawn:
        drawn, own = (float((by.names(part.held_out) == label).mean()) for by in (by_drawn, by_own))
        recognised = Share(drawn=drawn, own=own)
    return ClassFinding(
        name=part.name,
        images=part.images,
        compared=len(part.held_out),
        recognised=recognised,
        covered=covered,
        score=score(recognised, covered, classes),
    )


def coverage(real_ND: NDArray[Any], drawn_MD: NDArray[Any], neighbours: int = 5) -> float:
    """Share of the real samples that have a drawn one near (Naeem et al., arXiv 2002.09797, equation 8).

    Near is what is no farther than a real sample's k-th nearest other real sample. Unlike recall it is not fooled by a
    few drawn outliers, as no ball is laid around drawn samples.

    Args:
        real_ND: features of N real samples, more than `neighbours`.
        drawn_MD: features of M drawn samples.
        neighbours: k, 5 as in the paper.

    Returns:
        0 to 1; of two sets of one distribution, 1 - prod_{i=1..k} (N-i)/(M+N-i) is expected: 0.97 where N = M.
    """
    radii_N = np.sort(cdist(real_ND, real_ND), axis=1)[:, neighbours]  # the nearest is the sample itself
    return float((cdist(real_ND, drawn_MD).min(axis=1) <= radii_N).mean())


def _colours(pixels_HSS3: Pixels) -> NDArray[np.float32]:
    """Mean colours on a grid, [H,D]."""
    pixels_H3SS = torch.from_numpy(np.ascontiguousarray(pixels_HSS3)).permute(0, 3, 1, 2).float()
    return adaptive_avg_pool2d(pixels_H3SS, GRID).flatten(1).numpy()
