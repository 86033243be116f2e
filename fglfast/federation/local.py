"""What a client does with the global model and its own images: train it, judge it. Knows no transport.

Training is plain PyTorch: a client is somebody's laptop. Every draw depends on (seed, epoch, step), so a round that is
run again gives the same weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fglfast.federation.experiment import LocalSettings
from fglfast.images.labelled import LabelledImages
from fglfast.shards.index import Rows
from fglfast.training.augment import Augmentation, normalise
from fglfast.training.batches import epoch_rows, split, step_seed

JUDGED = 512  # images of one pass when nothing is learned


@dataclass(frozen=True)
class ClientImages:
    """A client's images as the model takes them, and which of them train and which judge.

    Attributes:
        pixels_N3SS: uint8.
        labels: class of each [N].
        train: rows to learn from.
        held_out: rows to judge with.
    """

    pixels_N3SS: Tensor
    labels: Tensor
    train: Rows
    held_out: Rows

    @classmethod
    def prepare(cls, dataset: LabelledImages, size: int, validation_share: float, seed: int) -> "ClientImages":
        """Decode and resize all images once, and hold out a share of every class."""
        pixels_NSSC = np.stack([dataset.pixels(index, size) for index in range(len(dataset))])
        train, held_out = split(dataset.labels, validation_share, seed)
        pixels_N3SS = torch.from_numpy(pixels_NSSC).permute(0, 3, 1, 2).contiguous()
        return cls(pixels_N3SS, torch.from_numpy(dataset.labels), train, held_out)


def train_locally(
    model: nn.Module, images: ClientImages, settings: LocalSettings, seed: int, proximal_mu: float = 0.0
) -> float:
    """Train a model in place for one round; returns the mean loss of its last epoch.

    Args:
        model: the global model, on the CPU or where its weights are.
        images: the client's.
        settings: how.
        seed: of order and augmentation.
        proximal_mu: FedProx's weight of the distance to the weights it began with; 0 is FedAvg.
    """
    start = [weight.detach().clone() for weight in model.parameters()]
    optimizer = torch.optim.SGD(
        model.parameters(), settings.learning_rate, momentum=0.9, weight_decay=settings.weight_decay
    )
    augmentation = Augmentation(images.pixels_N3SS.shape[-1], None, settings.flip, settings.erasing)
    model.train()
    losses: list[float] = []
    for epoch in range(settings.epochs):
        losses = []
        for step, rows in enumerate(_steps(images.train, settings.batch_size, seed, epoch)):
            batch_B3SS = augmentation(normalise(images.pixels_N3SS[rows]), step_seed(seed, epoch, step, 0))
            logits_BK = model(pixel_values=batch_B3SS.contiguous(memory_format=torch.channels_last)).logits
            loss = cross_entropy(logits_BK, images.labels[rows])
            losses.append(float(loss.detach()))
            if proximal_mu:
                loss = loss + 0.5 * proximal_mu * _squared_distance(model, start)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return float(np.mean(losses)) if losses else float("nan")


@torch.inference_mode()
def count_right(model: nn.Module, images: ClientImages, rows: Rows) -> int:
    """How many images of some rows the model names rightly."""
    model.eval()
    right = 0
    for start in range(0, len(rows), JUDGED):
        part = rows[start : start + JUDGED]
        batch_B3SS = normalise(images.pixels_N3SS[part]).contiguous(memory_format=torch.channels_last)
        right += int((model(pixel_values=batch_B3SS).logits.argmax(1) == images.labels[part]).sum())
    return right


def _steps(rows: Rows, batch_size: int, seed: int, epoch: int) -> Iterator[Rows]:
    """Batches of one epoch; a client with fewer images than a batch has one batch of them all."""
    size = min(batch_size, len(rows))
    if size >= 2:  # batch normalisation refuses one
        yield from epoch_rows(rows, size, seed, epoch)


def _squared_distance(model: nn.Module, start: list[Tensor]) -> Tensor:
    return torch.stack([(now - then).square().sum() for now, then in zip(model.parameters(), start, strict=True)]).sum()
