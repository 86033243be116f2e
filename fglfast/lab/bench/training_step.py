"""The global model's step, timed by its own history."""

import tempfile
from pathlib import Path

import torch

from fglfast.base.timing import Timing
from fglfast.generator.load import own_device
from fglfast.lab.bench.ceiling import Work
from fglfast.lab.bench.operations import count_training
from fglfast.lab.bench.records import TrainingRate
from fglfast.lab.bench.work import CLASSES, photograph_like, quiet
from fglfast.shards.description import Description, write_description
from fglfast.shards.tar import Sample, encode_image, shard_name, write_shard
from fglfast.training.half import native_half
from fglfast.training.launch import train
from fglfast.training.settings import TrainSettings

STEPS = 4  # of one epoch, which is one round
NEVER = 1e9


def training_work(arch: str, side: int, batch: int, rounds: int) -> Work:
    """Train as `train` does on images of so many pixels a side, a short epoch a round and one before that warms up."""
    settings = TrainSettings(
        arch=arch, epochs=rounds + 1, batch_size=batch, validation_share=0.0, checkpoint_seconds=NEVER
    )
    with tempfile.TemporaryDirectory() as folder, quiet():
        images = Path(folder) / "images"
        write_images(images, STEPS * batch, side)
        history = train(images, Path(folder) / "model", settings, 1).history
    timing = Timing.of([epoch["seconds"] / STEPS for epoch in history[1:]])
    return Work(batch, count_training(arch, side), timing)


def training_rate(arch: str, side: int, step: Work, ceiling_tflops: float) -> TrainingRate:
    """What a step comes to, held against a ceiling in TFLOP/s."""
    return TrainingRate(
        arch=arch,
        side=side,
        batch=step.rows,
        precision=training_precision(),
        images_per_second=step.rows / step.timing.seconds,
        tflops=step.tflops,
        share=step.tflops / ceiling_tflops,
        timing=step.timing,
    )


def training_precision() -> str:
    """What `train` multiplies in here, unless told otherwise."""
    return "bfloat16" if native_half(torch.device(own_device())) else "float32"


def training_seconds(arch: str, side: int, batch: int, ceiling_tflops: float) -> float:
    """Seconds of one round of `training_work` if it ran at the ceiling: it takes at least that long."""
    return STEPS * batch * count_training(arch, side) / (1e12 * ceiling_tflops)


def write_images(folder: Path, images: int, side: int) -> None:
    """A synthetic data set of one shard; a few pictures repeat, which a training step does not notice."""
    folder.mkdir()
    encoded = [encode_image(pixels, "png") for pixels in photograph_like(min(images, 8), side)]
    samples = (
        Sample(f"{index:09d}", encoded[index % len(encoded)], index % len(CLASSES), {}) for index in range(images)
    )
    write_shard(folder / shard_name(0), samples, "png")
    description = Description(plan="bench", class_names=CLASSES, images=images, shards=1, image_size=side)
    write_description(folder, description)
