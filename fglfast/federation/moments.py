"""One round of feature statistics and a closed-form head (FedCGS, arXiv 2503.06962).

Each client sends, of the features that a frozen network makes of its images, how many there are of each class, their
sums and their second moments. What those of all clients add up to is what pooling all images would give, so the head, a
Gaussian classifier with one covariance (linear discriminant analysis), does not depend on how images are spread. The
network here is the one that the server trains without any client.
"""

from collections.abc import Iterable, Mapping
from statistics import median_low

import torch
from flwr.app import RecordDict
from torch import Tensor, nn
from transformers import PreTrainedModel

from fglfast.federation.wire import UnfitError, Weights, weights_of
from fglfast.payload.claims import FEWEST
from fglfast.training.batches import TrainingData
from fglfast.training.model import head_of
from fglfast.training.opta import ABSENT
from fglfast.training.prototypes import head_inputs

RIDGE = 1e-2  # of the mean variance, added to each: few images leave a covariance singular
MOST, SLACK = 1e30, 1e-9  # of a sum of squares; of what rounding makes of it
FAR = 100.0  # times the usual mean square of an image's features, which one network makes of all

COUNTS, SUMS, SQUARES = "counts", "sums", "squares"


def moments_of(model: PreTrainedModel, images: TrainingData) -> Weights:
    """Counts [K], sums [K,F] and second moments [F,F] of the features of the images that are not held out."""
    head, labels_N = head_of(model), images.labels[images.train]
    found = empty(head)
    if len(labels_N):
        features_NF = head_inputs(model, images.pixels, images.train).double()
        found[COUNTS] += torch.bincount(labels_N, minlength=head.out_features)
        found[SUMS].index_add_(0, labels_N, features_NF)
        found[SQUARES] += features_NF.T @ features_NF
    return found


def empty(head: nn.Linear) -> Weights:
    """The moments of no image: the form that a client's have."""
    classes, width = head.out_features, head.in_features
    shapes = {COUNTS: (classes,), SUMS: (classes, width), SQUARES: (width, width)}
    return {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}


def sound_moments(content: RecordDict, form: Weights) -> Weights:
    """The moments that a client sends, in the form of those of no image; refused are those that no images have.

    Raises:
        UnfitError: they are of another form, or of no images.
    """
    found = weights_of(content, form)
    counts_K, sums_KF, squares_FF = found[COUNTS], found[SUMS], found[SQUARES]
    if bool((counts_K < 0).any()) or not torch.equal(counts_K, counts_K.round()):
        raise UnfitError("it counts images by what is no number of images")
    if not bool(counts_K.any()) and bool(squares_FF.any()):
        raise UnfitError("it has second moments without an image")
    power_F = squares_FF.diagonal()
    if (
        not torch.allclose(squares_FF, squares_FF.T)
        or bool((power_F < 0).any())
        or bool((squares_FF.abs() > MOST).any())
    ):
        raise UnfitError("its second moments are those of no images")
    # The squared mean of each class's feature is no more than its mean square (Cauchy-Schwarz).
    least_F = (sums_KF.square() / counts_K.clamp(min=1)[:, None]).sum(0)
    if bool((least_F > power_F * (1 + SLACK) + SLACK).any()) or bool(sums_KF[counts_K == 0].any()):
        raise UnfitError("its sums are those of no images with its second moments")
    scatter_FF = squares_FF - sums_KF.T @ (sums_KF / counts_K.clamp(min=1)[:, None])  # within classes
    if bool(torch.linalg.eigvalsh(scatter_FF).min() < -SLACK * power_F.sum()):
        raise UnfitError("its second moments are those of no images with its sums")
    return found


def outsized(moments: Mapping[str, Weights]) -> dict[str, str]:
    """Clients whose features are far larger than most clients' are, with the reason; of two, nobody can tell which."""
    held = {who: own for who, own in moments.items() if own[COUNTS].any()}
    if len(held) < FEWEST:
        return {}
    sizes = {who: float(own[SQUARES].trace() / own[COUNTS].sum()) for who, own in held.items()}
    usual, words = median_low(sizes.values()), "the mean square of its features is {:.0e} times the usual one"
    return {who: words.format(size / usual) for who, size in sizes.items() if size > FAR * usual > 0}


def of_images(moments: Weights, images: int) -> Weights:
    """Moments that weigh as so many images, where they are of more."""
    share = min(1.0, images / max(1.0, float(moments[COUNTS].sum())))
    return {name: share * value for name, value in moments.items()}


def fill_head(model: PreTrainedModel, moments: Iterable[Weights]) -> None:
    """Put the head of all clients' moments into a model; its other weights stay."""
    head = head_of(model)
    total = empty(head)
    for own in moments:
        for name, value in own.items():
            total[name] += value
    counts_K, present_K = total[COUNTS].clamp(min=0), total[COUNTS] > 0
    images = counts_K.sum().clamp(min=1)
    means_KF = total[SUMS] / counts_K.clamp(min=1)[:, None]
    covariance_FF = (total[SQUARES] - (counts_K[:, None] * means_KF).T @ means_KF) / images
    ridge = RIDGE * covariance_FF.diagonal().mean().clamp(min=1e-12)
    eye_FF: Tensor = torch.eye(head.in_features, dtype=torch.float64)
    weight_KF = torch.linalg.solve(covariance_FF + ridge * eye_FF, means_KF.T).T
    bias_K = (counts_K / images).clamp(min=1e-12).log() - 0.5 * (weight_KF * means_KF).sum(1)
    with torch.no_grad():
        head.weight.copy_(torch.where(present_K[:, None], weight_KF, 0.0))
        head.bias.copy_(torch.where(present_K, bias_K, ABSENT))
