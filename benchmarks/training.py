"""The training loop beside plain PyTorch's: what DeepSpeed, the loop around it and the augmentation cost a step."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import kornia.augmentation
import torch
import typer
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.results_file import save_result
from fglfast.base.timing import Run, interleaved
from fglfast.lab.bench.training_step import training_precision
from fglfast.training.augment import Augmentation, normalise
from fglfast.training.batches import TrainingData, epoch_rows
from fglfast.training.fit import PlainEngine, fit, optimizer_of, schedule_of
from fglfast.training.model import build_model
from fglfast.training.settings import Job, TrainSettings
from fglfast.training.worker import start_engine
from fglfast.training.world import World, alone

CLASSES = tuple("abcdefghij")


def main(
    arch: str = "resnet18-narrow",
    side: int = 64,
    batch: int = 128,
    steps: Annotated[int, typer.Option(help="Steps of a round.")] = 12,
    rounds: int = 7,
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
) -> None:
    """Time rounds of each loop in turn, on the same images in memory, and save what a step of each takes."""
    measured = measure(arch, side, batch, steps, rounds, precision)
    typer.echo(json.dumps(measured, indent=2))
    save_result("training", measured)


def measure(arch: str, side: int, batch: int, steps: int, rounds: int, precision: str = "auto") -> dict[str, Any]:
    """Images a second of each loop, and as a share of plain PyTorch's with and without augmentation."""
    settings = TrainSettings.model_validate(
        {"arch": arch, "batch_size": batch, "epochs": 1, "validation_share": 0.0, "precision": precision}
    )
    with _loops(settings, side, steps) as runs:
        timings = interleaved(runs, rounds)
    step = {name: timing.seconds / steps for name, timing in timings.items()}
    return {
        "settings": {"arch": arch, "side": side, "batch": batch, "steps": steps, "rounds": rounds},
        "precision": "bfloat16" if _half(settings) else "float32",
        "images_per_second": {name: round(batch / seconds, 1) for name, seconds in step.items() if "loop" in name},
        "milliseconds": {name: round(1000 * seconds, 3) for name, seconds in step.items()},
        "share_of_plain": round(step["plain loop, kornia"] / step["our loop, DeepSpeed"], 3),
        "share_of_plain_without_augmentation": round(step["plain loop"] / step["our loop, DeepSpeed"], 3),
        "spread": {name: round(timing.spread, 3) for name, timing in timings.items()},
    }


@contextmanager
def _loops(settings: TrainSettings, side: int, steps: int) -> Iterator[dict[str, Run]]:
    """The runs to time, each so many steps, while DeepSpeed's process group is there."""
    images = settings.batch_size * steps
    with alone() as world:
        pixels = torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8, device=world.device)
        labels = torch.randint(0, len(CLASSES), (images,))
        rows = torch.arange(images).numpy()
        data = TrainingData(pixels, labels, side, rows)
        engine = start_engine(Job(synthetic=Path(), out=Path(), settings=settings), CLASSES, data, world)
        plain = _Plain(settings, data, world)
        ours = Augmentation(side, settings.crop_padding, settings.flip, settings.erasing)
        part = pixels[: settings.batch_size]
        yield {
            "our loop, DeepSpeed": lambda: fit(engine, data, settings, world),
            "our loop, plain engine": lambda: plain.fit(steps, world),
            "plain loop, kornia": lambda: plain.epoch(plain.augmented),
            "plain loop": lambda: plain.epoch(normalise),
            "augmentation, ours": lambda: [ours(part, seed) for seed in range(steps)],
            "augmentation, kornia": lambda: [plain.augmented(part) for _ in range(steps)],
        }
        engine.destroy()


class _Plain:
    """What one would write without this package: a model, an optimiser, autocast, a loop."""

    def __init__(self, settings: TrainSettings, data: TrainingData, world: World) -> None:
        self.settings, self.data, self.device = settings, data, world.device
        self.model: Any = build_model(settings.arch, CLASSES)
        self.model = self.model.to(world.device, memory_format=torch.channels_last)
        self.optimizer = optimizer_of(self.model, settings)
        padding = max(1, data.size // 16)
        crop = kornia.augmentation.RandomCrop((data.size, data.size), padding=padding, padding_mode="reflect")
        erase = kornia.augmentation.RandomErasing(p=settings.erasing, scale=(0.02, 0.2))
        self.stages = nn.Sequential(crop, kornia.augmentation.RandomHorizontalFlip(), erase)

    def fit(self, steps: int, world: World) -> None:
        """The same model in our loop, without DeepSpeed."""
        engine = PlainEngine(self.model, self.optimizer, schedule_of(self.optimizer, self.settings, steps))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=_half(self.settings)):
            fit(engine, self.data, self.settings, world)

    def augmented(self, images: torch.Tensor) -> torch.Tensor:
        """Kornia's own stages."""
        with torch.no_grad():
            augmented: torch.Tensor = self.stages(normalise(images))
            return augmented

    def epoch(self, prepare: Any) -> None:
        """All images once."""
        self.model.train()
        for rows in epoch_rows(self.data.train, self.settings.batch_size, 0, 0):
            images = prepare(self.data.pixels[torch.from_numpy(rows).to(self.device)])
            labels = self.data.labels[rows].to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=_half(self.settings)):
                logits = self.model(pixel_values=images.contiguous(memory_format=torch.channels_last)).logits
            loss = cross_entropy(logits.float(), labels, label_smoothing=self.settings.label_smoothing)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()


def _half(settings: TrainSettings) -> bool:
    return settings.precision == "bfloat16" or (settings.precision == "auto" and training_precision() == "bfloat16")


if __name__ == "__main__":
    typer.run(main)
