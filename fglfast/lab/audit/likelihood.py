"""What a classifier says of the true class of images, and the likelihood-ratio attack (LiRA) on it with shadow models.

Carlini et al., "Membership Inference Attacks From First Principles", arXiv 2112.03570, algorithm 1 (online): what a
model says of an image is compared with what shadow models say that learned from it and with what those say that did
not, each taken as a Gaussian. With few shadows all images share one variance, as the paper has it (section VI-C).
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fglfast.lab.audit.roc import Bools, Floats
from fglfast.training.batches import Pixels
from fglfast.training.predict import predict


def confidences(model: Any, pixels: Pixels, labels: NDArray[np.int64]) -> Floats:
    """log(p / (1 - p)) of the probability p of each image's true class [N], without rounding p.

    It falls as the loss -log p rises, so it ranks images as a threshold on the loss does; and over models it is nearly
    Gaussian (section V). Of a single class nothing can be told: 0.
    """
    logits_NK, true_N1 = predict(model, pixels).double(), torch.from_numpy(labels)[:, None]
    if logits_NK.shape[1] == 1:
        return np.zeros(len(labels))
    others_NK = logits_NK.scatter(1, true_N1, float("-inf"))
    odds_N: Floats = (logits_NK.gather(1, true_N1)[:, 0] - others_NK.logsumexp(1)).numpy()
    return odds_N


def likelihood_ratio(target_N: Floats, shadows_SN: Floats, inside_SN: Bools) -> Floats:
    """Log-likelihood ratio of having been learned from, for each image [N].

    Args:
        target_N: `confidences` of the attacked model.
        shadows_SN: those of each shadow model.
        inside_SN: whether a shadow learned from an image. An image that all shadows learned from, or none, gets the
            missing mean from the mean distance of the two.
    """
    means_IN, residuals_I = zip(*(_moments(shadows_SN, mask_SN) for mask_SN in (inside_SN, ~inside_SN)), strict=True)
    inside_N, outside_N = means_IN
    gap = float(np.nanmean(inside_N - outside_N))
    inside_N, outside_N = (
        np.where(np.isnan(inside_N), outside_N + gap, inside_N),
        np.where(np.isnan(outside_N), inside_N - gap, outside_N),
    )
    scores: Floats = _log_density(target_N, inside_N, residuals_I[0]) - _log_density(
        target_N, outside_N, residuals_I[1]
    )
    return scores


def leave_one_out(confidences_SN: Floats, inside_SN: Bools) -> Floats:
    """Attack every model with all others as its shadows; scores by model and image."""
    rest = [[other for other in range(len(inside_SN)) if other != model] for model in range(len(inside_SN))]
    return np.stack(
        [
            likelihood_ratio(confidences_SN[model], confidences_SN[others], inside_SN[others])
            for model, others in enumerate(rest)
        ]
    )


def _moments(confidences_SN: Floats, mask_SN: Bools) -> tuple[Floats, float]:
    """Mean of each image over the models of a mask [N], NaN where there are none; and the variance all images share."""
    counts_N = mask_SN.sum(axis=0)
    with np.errstate(invalid="ignore"):
        means_N = np.where(mask_SN, confidences_SN, 0).sum(axis=0) / np.where(counts_N, counts_N, np.nan)
    squares = float(np.square((confidences_SN - means_N)[mask_SN]).sum())
    free = int(np.maximum(counts_N - 1, 0).sum())
    return means_N, max(squares / max(free, 1), 1e-6)


def _log_density(values: Floats, means: Floats, variance: float) -> Floats:
    """Of a Gaussian, but for a constant that the ratio loses."""
    density: Floats = -0.5 * (np.square(values - means) / variance + np.log(variance))
    return density
