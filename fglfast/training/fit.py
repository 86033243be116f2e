"""The training loop of every classifier: epochs, batches, augmentation, loss, validation.

Order, augmentation and dropout of a step depend on (seed, epoch, step, rank) alone, so a killed run goes on
from its checkpoint to the very weights it would have had; bit for bit on a CPU at the same world size.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import tee
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from fglfast.base.console import Progress, note
from fglfast.base.errors import FglError
from fglfast.training.augment import Augmentation
from fglfast.training.batches import TrainingData, batches, epoch_rows, step_seed
from fglfast.training.checkpoints import Checkpoints, Position
from fglfast.training.predict import judge_rows, logits_of
from fglfast.training.settings import TrainSettings
from fglfast.training.world import World

Penalty = Callable[[], Tensor]


class PlainEngine(nn.Module):
    """A module with its optimiser, used as DeepSpeed's engine is: for one process and no checkpoints."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, schedule: LRScheduler | None = None):
        super().__init__()
        self.module, self.optimizer, self.schedule = module, optimizer, schedule

    def forward(self, **inputs: Tensor) -> Any:
        """What the module says."""
        return self.module(**inputs)

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss, in the place of older ones."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()

    def step(self) -> None:
        """Change the weights by the gradients, and the rate by the schedule."""
        self.optimizer.step()
        if self.schedule:
            self.schedule.step()

    def gradient_accumulation_steps(self) -> int:
        """Parts of a batch that one change of the weights is made of."""
        return 1


def fit(
    engine: Any,
    data: TrainingData,
    settings: TrainSettings,
    world: World | None = None,
    checkpoints: Checkpoints | None = None,
    penalty: Penalty | None = None,
    tell: Callable[[dict[str, Any]], None] | None = None,
    name: str = "",
) -> list[dict[str, Any]]:
    """Train a classifier in place; PyTorch's global generators are left as they were.

    Args:
        engine: DeepSpeed's, or a `PlainEngine`.
        data: what it learns from; what is held out judges it after each epoch.
        settings: epochs, batch size, loss, augmentation, seed; optimiser and schedule are the engine's.
        world: this process among its peers, if it has some.
        checkpoints: where to go on from, and what to keep; None to begin and to keep nothing.
        penalty: is added to the loss of each step.
        tell: is given each new row.
        name: of the progress that is shown; none without.

    Returns:
        One row an epoch.

    Raises:
        BadInputError: an image or the checkpoint cannot be read.
        FglError: the loss is not a number, as of a run whose steps are too long; it is looked at once an epoch.
    """
    world = world or World()
    device = next(engine.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        return _Fit(engine, data, settings, world, checkpoints, penalty, tell, device).run(name)


def optimizer_of(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimiser that settings ask for; biases and normalisation, of one dimension, do not decay."""
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in learned if weight.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [weight for weight in learned if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=0.9, nesterov=True, fused=True)


def schedule_of(optimizer: torch.optim.Optimizer, settings: TrainSettings, steps: int) -> LambdaLR:
    """The learning rate of so many steps in all."""
    return LambdaLR(optimizer, lambda step: settings.rate_factor(step, max(1, steps)))


@dataclass
class _Fit:
    """One run of the loop in one process, of what `fit` is given, and the position that it reached."""

    engine: Any
    data: TrainingData
    settings: TrainSettings
    world: World
    checkpoints: Checkpoints | None
    penalty: Penalty | None
    tell: Callable[[dict[str, Any]], None] | None
    device: torch.device

    def __post_init__(self) -> None:
        settings = self.settings
        self.epoch_steps = len(self.data.train) // settings.batch_size
        self.augmentation = Augmentation(self.data.size, settings.crop_padding, settings.flip, settings.erasing)
        self.at = Position()

    def run(self, name: str) -> list[dict[str, Any]]:
        """Train from the newest checkpoint, if there is one, to the last epoch."""
        if self.checkpoints:
            self.at = self.checkpoints.restore()
        at, epochs = self.at, self.settings.epochs
        done = at.epoch * self.epoch_steps + at.step
        if name and done:
            note(f"{name}: goes on at epoch {at.epoch + 1} of {epochs}, step {at.step}")
        batch = self.settings.batch_size
        with Progress(name, total=epochs * self.epoch_steps * batch, start=done * batch) as progress:
            while at.epoch < epochs:
                self._epoch(progress)
        return at.history

    def _epoch(self, progress: Progress) -> None:
        """The rest of the current epoch, its validation, its row of the history and its checkpoint."""
        at, settings = self.at, self.settings
        begun, before = time.monotonic(), at.epoch_seconds
        # Summed on the device: reading a loss at every step would make a GPU wait for it.
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.engine.train()
        for images_B3SS, labels in self._batches():
            loss_sum += self._step(images_B3SS, labels)
            at.step += 1
            progress.advance(settings.batch_size, epoch=f"{at.epoch + 1}/{settings.epochs}", **self._last_row())
            if self.checkpoints and at.step < self.epoch_steps and self.checkpoints.due(at.step):
                at.epoch_seconds = before + time.monotonic() - begun
                self.checkpoints.save(replace(at, loss_sum=self._so_far(loss_sum)))
        at.loss_sum = self._so_far(loss_sum)
        loss, accuracy = self._validate()
        at.epoch_seconds = before + time.monotonic() - begun
        at.history.append(self._row(loss, accuracy))
        if self.tell:
            self.tell(at.history[-1])
        at.epoch, at.step, at.loss_sum, at.epoch_seconds = at.epoch + 1, 0, 0.0, 0.0
        if self.checkpoints:
            self.checkpoints.save(at)

    def _so_far(self, loss_sum: Tensor) -> float:
        """The losses of the current epoch's steps, of all processes, in each of them."""
        return self._number(self.at.loss_sum + self.world.sum(loss_sum).item() / self.world.size)

    def _number(self, loss: float) -> float:
        """The loss, unless it is none: what comes after it would be none either."""
        if not math.isfinite(loss):
            raise FglError(
                f"the loss is not a number in epoch {self.at.epoch + 1}: training has diverged",
                "lower the learning rate",
            )
        return loss

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What is left of the current epoch: images as they are kept and their labels, on the device."""
        at, world, seed = self.at, self.world, self.settings.seed
        rows = epoch_rows(self.data.train, self.settings.batch_size, seed, at.epoch, world.rank, world.size, at.step)
        coming, labels = tee(rows)
        for images_B3SS, part in zip(batches(self.data.pixels, coming, self.device), labels, strict=True):
            yield images_B3SS, self.data.labels[part].to(self.device, non_blocking=True)

    def _step(self, images_B3SS: Tensor, labels: Tensor) -> Tensor:
        """One optimiser step; returns the mean loss of this process's images, without the penalty."""
        seed = step_seed(self.settings.seed, self.at.epoch, self.at.step, self.world.rank)
        images_B3SS = self.augmentation(images_B3SS, seed)
        self._seed(seed)
        parts = self.engine.gradient_accumulation_steps()
        mean = torch.zeros((), dtype=torch.float64, device=self.device)
        layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        for part, target in zip(images_B3SS.chunk(parts), labels.chunk(parts), strict=True):
            logits_BK = logits_of(self.engine(pixel_values=part.contiguous(memory_format=layout)))
            loss = cross_entropy(logits_BK, target, label_smoothing=self.settings.label_smoothing)
            mean += loss.detach() / parts
            self.engine.backward(loss + self.penalty() if self.penalty else loss)
            self.engine.step()
        return mean

    def _seed(self, seed: int) -> None:
        """Seed what a network draws from here: asking every kind of device takes as long as a small network's step."""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _validate(self) -> tuple[float | None, float | None]:
        """Mean loss and accuracy on the held-out images, each process judging its part of them."""
        if not len(self.data.held_out):
            return None, None
        for buffer in self.engine.module.buffers():  # batch statistics: one set for all, rank 0's
            self.world.follow(buffer)
        mine = self.data.held_out[self.world.rank :: self.world.size]
        sums = judge_rows(self.engine, self.data, mine, self.settings.batch_size)
        total = self.world.sum(torch.tensor(sums, dtype=torch.float64, device=self.device))
        loss, correct = (total / len(self.data.held_out)).tolist()
        return round(self._number(loss), 6), round(correct, 6)

    def _row(self, loss: float | None, accuracy: float | None) -> dict[str, Any]:
        images = self.epoch_steps * self.settings.batch_size
        return {
            "epoch": self.at.epoch + 1,
            "step": (self.at.epoch + 1) * self.epoch_steps,
            "train_loss": round(self.at.loss_sum / self.epoch_steps, 6),
            "val_loss": loss,
            "val_accuracy": accuracy,
            "seconds": round(self.at.epoch_seconds, 3),
            "images_per_second": round(images / max(self.at.epoch_seconds, 1e-9), 2),
        }

    def _last_row(self) -> dict[str, str]:
        if not self.at.history:
            return {}
        row = self.at.history[-1]
        facts = {"loss": f"{row['train_loss']:.4f}"}
        facts |= {"accuracy": f"{row['val_accuracy']:.4f}"} if row["val_accuracy"] is not None else {}
        return facts | {"after epoch": str(row["epoch"])}
