"""Labels for a client's images that have none: who is labelled how, and how many images of each class are claimed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fglfast.base.errors import BadInputError
from fglfast.base.limits import check_memory
from fglfast.client.partial_transport import TABLES, TransportSettings, joins, transport
from fglfast.images.labelled import LabelledImages

CONTRADICTED = 0.5  # share of the labels; where fewer are the classifier's own first answer, it is said


class LabelSettings(TransportSettings):
    """How images without labels get some.

    Attributes:
        confidence: share of an image that its class must have, or it stays out.
        least_images: of a class, or all of it stays out: a few may be mistakes.
    """

    confidence: float = Field(0.5, ge=0, le=1)
    least_images: int = Field(5, ge=1)


@dataclass(frozen=True)
class PseudoLabels:
    """What was found.

    Attributes:
        labels: the likeliest class of each image [N].
        confidences: the share of the image that this class has [N], from 0 to 1.
        kept: which images are labelled [N]; the others stay out.
        counts: images of each class [K]: the masses that the labelled images send there, rounded; 0 where none are.
    """

    labels: NDArray[np.int64]
    confidences: NDArray[np.float64]
    kept: NDArray[np.bool_]
    counts: NDArray[np.int64]


def pseudo_labels(
    features_NF: NDArray[np.float32], log_P_NK: NDArray[np.float32], asked: LabelSettings
) -> PseudoLabels:
    """Label images by what a classifier says of them all: what its last layer sees, logarithms of its probabilities.

    Raises:
        BadInputError: it says what are no numbers.
        FglError: there is not enough memory for tables of N x K.
    """
    images, classes = log_P_NK.shape
    check_memory(8 * TABLES * images * classes, f"labels of {images:,} images and {classes:,} classes")
    if not (np.isfinite(features_NF).all() and np.isfinite(log_P_NK).all()):
        raise BadInputError("the classifier answers with NaN or infinity", "ask the server for another")
    joined_NN = joins(features_NF, asked.neighbours) if asked.agreement and images > 1 else None
    return labels_of(transport(log_P_NK, joined_NN, asked), asked)


def labels_of(plan_NK: NDArray[np.float64], asked: LabelSettings) -> PseudoLabels:
    """The labels that a plan gives, in images: a share of each goes to each class [N,K]."""
    labels_N, confidences_N = plan_NK.argmax(axis=1), plan_NK.max(axis=1)
    sure_N = confidences_N >= asked.confidence
    counts_K = np.rint(plan_NK[sure_N].sum(axis=0)).astype(np.int64)
    held_K = (counts_K >= asked.least_images) & (np.bincount(labels_N[sure_N], minlength=plan_NK.shape[1]) > 0)
    kept_N = sure_N & held_K[labels_N]
    masses_K = np.rint(plan_NK[kept_N].sum(axis=0)).astype(np.int64)
    return PseudoLabels(labels_N, confidences_N, kept_N, np.where(held_K, masses_K, 0))


def doubts(found: PseudoLabels, log_P_NK: NDArray[np.float32]) -> str:
    """A remark where most labels, of which there are some, contradict the classifier they come from; else empty.

    Transport corrects a classifier's answers by what it says of all images. One that is hardly surer of one class than
    of another leaves it nothing to go by, and all images may end in a class or two.
    """
    agreed = (log_P_NK.argmax(axis=1) == found.labels)[found.kept].mean()
    if agreed >= CONTRADICTED:
        return ""
    return (
        f"only {agreed:.0%} of these labels are what the classifier itself answers first, at "
        f"{np.exp(log_P_NK.max(axis=1)).mean():.0%} on average: look at them, or ask the server for a surer classifier"
    )


@dataclass(frozen=True)
class Labelled:
    """Images with found labels, as `embed` takes them.

    Attributes:
        images: those that are labelled.
        counts: images of each of their classes [K], as found.
        left_out: how many images have no label.
    """

    images: LabelledImages
    counts: NDArray[np.int64]
    left_out: int


def labelled(
    images: LabelledImages, found: PseudoLabels, class_names: tuple[str, ...], of_columns: Sequence[str]
) -> Labelled:
    """The images that are labelled; `of_columns` names the class of the federation that each column of `found` is.

    Raises:
        BadInputError: no image is labelled.
    """
    if not found.kept.any():
        raise BadInputError(
            f"{images.source}: none of {len(images):,} images gets a label",
            "lower --confidence or --least-images, or ask whether the classifier knows such images",
        )
    places_K = np.array([class_names.index(name) for name in of_columns], dtype=np.int64)
    rows = np.flatnonzero(found.kept)
    counts = np.zeros(len(class_names), dtype=np.int64)
    counts[places_K] = found.counts
    chosen = replace(images.select(rows), class_names=class_names, labels=places_K[found.labels[rows]])
    return Labelled(chosen, counts, len(images) - len(rows))
