"""A classifier asked about many images, batch by batch."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.hooks import RemovableHandle

from fglfast.base.console import Progress
from fglfast.shards.index import Rows
from fglfast.training.augment import normalise
from fglfast.training.batches import Pixels, TrainingData, batches

M = TypeVar("M", bound=nn.Module)
PASS = 256  # images of one pass


def placed(model: M) -> M:
    """A model where this process computes: on its GPU, if PyTorch sees one, with channels last; else as it was."""
    if not torch.cuda.is_available():
        return model
    anywhere: Any = model
    moved: M = anywhere.to(f"cuda:{torch.cuda.current_device()}", memory_format=torch.channels_last)
    return moved


def logits_of(output: Any) -> Tensor:
    """What a classifier says of each class, float32 [B,K]."""
    logits_BK: Tensor = output.logits.float()
    return logits_BK


@torch.no_grad()
def predict(
    network: Any,
    pixels: Pixels,
    rows: Rows | None = None,
    take: Callable[[Any], Tensor] = logits_of,
    batch_size: int = PASS,
    name: str = "",
) -> Tensor:
    """What a network makes of images, on the CPU; it computes where its weights are, and is left in evaluation mode.

    Args:
        network: a transformers image classifier, or its base model.
        pixels: the images.
        rows: which of them, at least one; all by default.
        take: what is wanted of the network's output, [B,...]: by default the logits.
        batch_size: images of one pass.
        name: of the progress that is shown; none without.
    """
    rows = np.arange(len(pixels)) if rows is None else rows
    network.eval()
    device = next(network.parameters()).device
    parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    answers = []
    with Progress(name, len(rows)) as progress:
        for images_B3SS in batches(pixels, parts, device):
            images_B3SS = normalise(images_B3SS).contiguous(memory_format=torch.channels_last)
            answers.append(take(network(pixel_values=images_B3SS)).cpu())
            progress.advance(len(images_B3SS))
    return torch.cat(answers)


def features(model: Any, pixels: Pixels) -> Tensor:
    """What the last layer of a classifier sees of each image, float32 [N,F].

    Raises:
        BadInputError: it has no base model, and its last layer is not linear.
    """
    if model.base_model is model:
        return features_and_logits(model, pixels)[0]
    return predict(model.base_model, pixels, take=_pooled)


def features_and_logits(model: Any, pixels: Pixels, name: str = "") -> tuple[Tensor, Tensor]:
    """Both `features` and what the classifier makes of them, float32 [N,F] and [N,K], of one look at each image.

    Raises:
        BadInputError: it has no base model, and its last layer is not linear.
    """
    seen: list[Tensor] = []
    hook = _watched(model, seen)

    def both(output: Any) -> Tensor:
        return torch.cat([seen.pop(), logits_of(output)], dim=1)

    try:
        found_NX = predict(model, pixels, take=both, name=name)
    finally:
        hook.remove()
    classes = model.config.num_labels
    return found_NX[:, :-classes], found_NX[:, -classes:]


def _watched(model: Any, seen: list[Tensor]) -> RemovableHandle:
    """Have `features` of each batch that a classifier is asked about put into a list.

    Some, such as SigLIP and CLIP, are their own base model: of those it is what their last layer is given.
    """
    if model.base_model is not model:
        base: nn.Module = model.base_model
        return base.register_forward_hook(lambda network, asked, output: seen.append(_pooled(output)))
    from fglfast.training.model import head_of

    return head_of(model).register_forward_pre_hook(lambda head, given: seen.append(given[0].flatten(1).float()))


def _pooled(output: Any) -> Tensor:
    """One vector an image of a base model's output, float32 [B,F]."""
    found: Tensor | None = getattr(output, "pooler_output", None)
    if found is not None:
        return found.flatten(1).float()
    last: Tensor = output.last_hidden_state.float()
    return last.mean(1) if last.ndim == 3 else last.flatten(2).mean(2)


def judge_rows(network: Any, data: TrainingData, rows: Rows, batch_size: int = PASS) -> tuple[float, int]:
    """The sum of the cross entropy over some rows, which may be none, and how many of them are named rightly."""
    if not len(rows):
        return 0.0, 0
    logits_BK, labels = predict(network, data.pixels, rows, batch_size=batch_size).double(), data.labels[rows]
    return cross_entropy(logits_BK, labels, reduction="sum").item(), int((logits_BK.argmax(1) == labels).sum())


def count_right(network: Any, data: TrainingData, rows: Rows) -> int:
    """How many images of some rows a classifier names rightly."""
    return judge_rows(network, data, rows)[1]
