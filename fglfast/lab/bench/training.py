"""The global model's step, timed by its own history."""

import tempfile
from pathlib import Path

from fglfast.base.timing import Timing
from fglfast.lab.bench.operations import count_training
from fglfast.lab.bench.records import TrainingRate
from fglfast.lab.bench.work import CLASSES, photograph_like, quiet
from fglfast.shards.description import Description, write_description
from fglfast.shards.tar import Sample, encode_image, shard_name, write_shard
from fglfast.training.launch import train
from fglfast.training.settings import TrainSettings

STEPS = 4  # of one epoch, which is one round
NEVER = 1e9


def training_rate(arch: str, side: int, batch: int, rounds: int, ceiling_tflops: float) -> TrainingRate:
    """Train for a few short epochs as `train` does; the first epoch warms up.

    Args:
        arch: of the global model.
        side: of an image, in pixels.
        batch: images a step.
        rounds: epochs that count.
        ceiling_tflops: what the share refers to, TFLOP/s.
    """
    settings = TrainSettings(
        arch=arch, epochs=rounds + 1, batch_size=batch, validation_share=0.0, checkpoint_seconds=NEVER
    )
    with tempfile.TemporaryDirectory() as folder, quiet():
        images = Path(folder) / "images"
        write_images(images, STEPS * batch, side)
        history = train(images, Path(folder) / "model", settings, 1).history
    timing = Timing.of([epoch["seconds"] / STEPS for epoch in history[1:]])
    rate = batch / timing.seconds
    tflops = rate * count_training(arch, side, len(CLASSES)) / 1e12
    return TrainingRate(
        arch=arch,
        side=side,
        batch=batch,
        images_per_second=rate,
        tflops=tflops,
        share=tflops / ceiling_tflops,
        timing=timing,
    )


def training_seconds(arch: str, side: int, batch: int, ceiling_tflops: float) -> float:
    """Seconds of one round of `training_rate` if it ran at the ceiling: it takes at least that long."""
    return STEPS * batch * count_training(arch, side, len(CLASSES)) / (1e12 * ceiling_tflops)


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
