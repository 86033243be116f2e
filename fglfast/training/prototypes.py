"""What a model is delivered with for its clients: the mean feature of each class, over synthetic images.

`prototypes.safetensors` beside the weights holds `means` float32 [K,F], a row a class in the order of the labels,
`counts` int64 [K], the images behind each (none behind a class that nobody drew), and `spread` float32 [], the mean
squared distance of an image's feature from that of its class.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fglfast.base.errors import BadInputError
from fglfast.base.files import remove, write_atomic
from fglfast.base.untrusted import loading, read_bytes
from fglfast.shards.description import read_description
from fglfast.shards.index import Rows, read_images
from fglfast.shards.keep import left_out
from fglfast.training.batches import Pixels
from fglfast.training.model import head_of
from fglfast.training.predict import predict

PROTOTYPES = "prototypes.safetensors"
MEANS, COUNTS, SPREAD = "means", "counts", "spread"
PER_CLASS = 100  # images of a class: more would move its mean by less than a client's few images do
LARGEST = 1e6  # of a feature; those of a trained network are a few units
MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Prototypes:
    """The mean feature of each class.

    Attributes:
        means_KF: float32; zeros for a class without images.
        counts_K: int64, the images behind each.
        spread: float32 [], the mean squared distance of an image from its class's mean.
    """

    means_KF: Tensor
    counts_K: Tensor
    spread: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """By the names that they are saved and sent under."""
        return {MEANS: self.means_KF, COUNTS: self.counts_K, SPREAD: self.spread}


def head_inputs(model: PreTrainedModel, pixels: Pixels, rows: Rows | None = None) -> Tensor:
    """What the last layer of a classifier, left in evaluation mode, is given for each image: float32 [N,F].

    Of all images, or of some rows, at least one.

    Raises:
        BadInputError: its last layer is not linear.
    """
    seen: list[Tensor] = []
    hook = head_of(model).register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().float().cpu()))
    try:
        predict(model, pixels, rows)
    finally:
        hook.remove()
    return torch.cat(seen).flatten(1)


def prototypes_of(model: PreTrainedModel, pixels: Pixels, labels_N: Tensor, rows: Rows | None = None) -> Prototypes:
    """The mean feature of each class, of at most `PER_CLASS` images, evenly spread over all of the class.

    Labels are as the model numbers them; all images may be looked at, or some rows.

    Raises:
        BadInputError: the classifier's last layer is not linear.
    """
    head, labels = head_of(model), labels_N.numpy()
    allowed = np.arange(len(labels)) if rows is None else rows
    members = [allowed[labels[allowed] == label] for label in range(head.out_features)]
    chosen = np.concatenate([_spread(own) for own in members])
    if not len(chosen):
        return empty_prototypes(model)
    features_NF, own_N = head_inputs(model, pixels, chosen).double(), labels_N[chosen]
    counts_K = torch.bincount(own_N, minlength=head.out_features)
    sums_KF = torch.zeros(head.out_features, head.in_features, dtype=torch.float64).index_add_(0, own_N, features_NF)
    means_KF = sums_KF / counts_K.clamp(min=1)[:, None]
    spread = (features_NF - means_KF[own_N]).square().sum(1).mean()
    return Prototypes(means_KF.float(), counts_K, spread.float())


def synthetic_prototypes(model: PreTrainedModel, synthetic: Path, size: int) -> Prototypes:
    """The prototypes of a model, which sees a side of `size` pixels, over a folder of shards of its classes.

    Raises:
        BadInputError, IncompleteError: the folder cannot be used as it is, or is of other classes.
    """
    description = read_description(synthetic)
    numbered: Any = model.config.id2label
    known = tuple(numbered[label] for label in range(len(numbered)))
    if description.class_names != known:
        raise BadInputError(f"{synthetic}: its classes are not the model's", "give the images that it learned from")
    images = read_images(synthetic, description, size)
    kept = np.setdiff1d(np.arange(len(images)), left_out(synthetic, description))
    return prototypes_of(model, images, torch.from_numpy(images.index.labels), kept)


def save_prototypes(prototypes: Prototypes, folder: Path) -> None:
    """Write them where a model's weights will be, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / PROTOTYPES, safetensors.torch.save(prototypes.tensors(), metadata={"format": "pt"}))


def remove_prototypes(folder: Path) -> None:
    """Remove those of an older model, if there are some: before another model's weights are written, not after."""
    remove(folder / PROTOTYPES)


def load_prototypes(folder: Path, model: PreTrainedModel) -> Prototypes | None:
    """Those beside a model's weights, whoever wrote them; None where there are none.

    Raises:
        BadInputError: the file is refused.
    """
    path = folder / PROTOTYPES
    if not path.exists():
        return None
    with loading(path):
        tensors = safetensors.torch.load(read_bytes(path, MOST_BYTES))
    return checked_prototypes(tensors, model, str(path))


def checked_prototypes(tensors: Mapping[str, Tensor], model: PreTrainedModel, what: str) -> Prototypes:
    """Prototypes that a stranger wrote, in their exact form, for the model that they came with; `what` holds them.

    Raises:
        BadInputError: they are not finite, or not of this model.
    """
    blank = empty_prototypes(model).tensors()
    hint = "ask who sent it, or have them made from images: --prototypes"
    if {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()} != {
        name: (tensor.shape, tensor.dtype) for name, tensor in blank.items()
    }:
        raise BadInputError(f"{what}: its prototypes are not those of this model", hint)
    found = Prototypes(tensors[MEANS], tensors[COUNTS], tensors[SPREAD])
    bounded = bool((found.means_KF.abs() <= LARGEST).all()) and 0 <= found.spread.item() <= LARGEST**2
    if not bounded or bool((found.counts_K < 0).any()):
        raise BadInputError(f"{what}: its prototypes are out of bounds", hint)
    return found


def empty_prototypes(model: PreTrainedModel) -> Prototypes:
    """The prototypes of no image: the form that a model's have."""
    head = head_of(model)
    counts_K = torch.zeros(head.out_features, dtype=torch.int64)
    return Prototypes(torch.zeros(head.out_features, head.in_features), counts_K, torch.zeros(()))


def _spread(rows: Rows) -> Rows:
    """At most `PER_CLASS` of some rows, evenly spread."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(PER_CLASS, len(rows))).astype(np.int64))]
