"""What a classifier says of the true class of images."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fglfast.training.batches import Pixels
from fglfast.training.predict import predict

Floats = NDArray[np.float64]


def confidences(model: Any, pixels: Pixels, labels: NDArray[np.int64]) -> Floats:
    """log(p / (1 - p)) of the probability p of each image's true class [N], without rounding p.

    It falls as the loss -log p rises, so it ranks images as a threshold on the loss does; and over models it is nearly
    Gaussian (Carlini et al., arXiv 2112.03570, section V). Of a single class nothing can be told: 0.
    """
    logits_NK, true_N1 = predict(model, pixels).double(), torch.from_numpy(labels)[:, None]
    if logits_NK.shape[1] == 1:
        return np.zeros(len(labels))
    others_NK = logits_NK.scatter(1, true_N1, float("-inf"))
    odds_N: Floats = (logits_NK.gather(1, true_N1)[:, 0] - others_NK.logsumexp(1)).numpy()
    return odds_N
