"""What a classifier says of images: its confidence in the true class, its features. Knows no attack."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fglfast.base.console import Progress
from fglfast.images.labelled import LabelledImages
from fglfast.training.augment import normalise

Floats = NDArray[np.float64]
PASS = 256  # images at once


def read_pixels(dataset: LabelledImages, size: int) -> Tensor:
    """All images, uint8 [N,3,S,S]."""
    pixels_N3SS = torch.empty(len(dataset), 3, size, size, dtype=torch.uint8)
    with Progress("read", len(dataset)) as progress:
        for index in range(len(dataset)):
            pixels_N3SS[index] = torch.from_numpy(dataset.pixels(index, size).copy()).permute(2, 0, 1)
            progress.advance(1)
    return pixels_N3SS


def confidences(model: Any, pixels_N3SS: Tensor, labels: NDArray[np.int64]) -> Floats:
    """log(p / (1 - p)) of the probability p of each image's true class [N], without rounding p.

    It falls as the loss -log p rises, so it ranks images as a threshold on the loss does; and over models it is nearly
    Gaussian (Carlini et al., arXiv 2112.03570, section V).
    """

    def scaled(output: Any, start: int) -> Tensor:
        logits_BK = output.logits.double()
        true_B1 = torch.from_numpy(labels[start : start + len(logits_BK)])[:, None].to(logits_BK.device)
        others_BK = logits_BK.scatter(1, true_B1, float("-inf"))
        odds_B: Tensor = logits_BK.gather(1, true_B1)[:, 0] - others_BK.logsumexp(1)
        return odds_B

    return _passes(model, pixels_N3SS, scaled).numpy()


def features(model: Any, pixels_N3SS: Tensor) -> Tensor:
    """What the last layer of a classifier sees of each image, float32 [N,F]."""

    def pooled(output: Any, _: int) -> Tensor:
        found: Tensor | None = getattr(output, "pooler_output", None)
        if found is not None:
            return found.flatten(1).float()
        last: Tensor = output.last_hidden_state.float()
        return last.mean(1) if last.ndim == 3 else last.flatten(2).mean(2)

    return _passes(model.base_model, pixels_N3SS, pooled)


@torch.inference_mode()
def _passes(network: Any, pixels_N3SS: Tensor, take: Callable[[Any, int], Tensor]) -> Tensor:
    """What `take` makes of a network's output, batch by batch."""
    network.eval()
    device = next(network.parameters()).device
    parts = [
        take(network(pixel_values=normalise(pixels_N3SS[start : start + PASS].to(device))), start).cpu()
        for start in range(0, len(pixels_N3SS), PASS)
    ]
    return torch.cat(parts)
