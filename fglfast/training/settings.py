"""What a training run is asked for. Knows no torch: reading it costs nothing."""

import json
import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fglfast.base.config import Seed, Settings
from fglfast.base.errors import UsageError

WIDTHS = (64, 128, 256, 512)
ARCHITECTURES: dict[str, dict[str, Any]] = {
    # Four basic blocks at a quarter of the usual width, for images of 28 pixels: 0.3 million weights.
    "resnet10-tiny": {
        "layer_type": "basic",
        "depths": (1, 1, 1, 1),
        "embedding_size": 16,
        "hidden_sizes": tuple(w // 4 for w in WIDTHS),
    },
    # Four basic blocks at half the usual width: 1.2 million weights, for demonstrations on a CPU.
    "resnet10-narrow": {
        "layer_type": "basic",
        "depths": (1, 1, 1, 1),
        "embedding_size": 32,
        "hidden_sizes": tuple(w // 2 for w in WIDTHS),
    },
    # ResNet-18 at half the usual width: 2.8 million weights.
    "resnet18-narrow": {
        "layer_type": "basic",
        "depths": (2, 2, 2, 2),
        "embedding_size": 32,
        "hidden_sizes": tuple(w // 2 for w in WIDTHS),
    },
    "resnet18": {"layer_type": "basic", "depths": (2, 2, 2, 2), "hidden_sizes": WIDTHS},
    "resnet34": {"layer_type": "basic", "depths": (3, 4, 6, 3), "hidden_sizes": WIDTHS},
    "resnet50": {"layer_type": "bottleneck", "depths": (3, 4, 6, 3), "hidden_sizes": tuple(4 * w for w in WIDTHS)},
    # Group normalisation in the place of batch normalisation (Big Transfer, arXiv 1912.11370): 0.5 million weights. A
    # ResNet whose layers were exchanged would be read by plain transformers as one of batch normalisation.
    "bit14-tiny": {
        "model_type": "bit",
        "layer_type": "preactivation",
        "depths": (1, 1, 1, 1),
        "embedding_size": 32,
        "hidden_sizes": WIDTHS,
        "num_groups": 8,
    },
}
Tracker = Literal["tensorboard", "wandb", "mlflow"]


class TrainSettings(Settings):
    """How the global model is trained; the defaults are for a few thousand small synthetic images.

    Attributes:
        arch: architecture of the global model: a built-in one (resnet10-tiny to resnet50; bit14-tiny has no batch
            normalisation), or a JSON model config.
        epochs: passes over the synthetic images.
        batch_size: images a step, over all processes.
        precision: what layers compute in, the weights being float32: auto is bfloat16 where the device multiplies in
            it natively, else float32; a DeepSpeed file with a `torch_autocast` section overrules it.
        optimizer: torch optimiser; a DeepSpeed file with an `optimizer` section overrules it.
        learning_rate: peak learning rate of the schedule.
        weight_decay: on weights only, never on biases or normalisation.
        label_smoothing: share of the target spread over all classes.
        warmup_share: share of all steps in which the rate rises linearly; then a cosine to zero.
        seed: seed of weights, order, augmentation and the held-out images.
        validation_share: part of the *synthetic* images held out, at least one a class; 0 for none.
        image_size: side in pixels that images are resized to (bicubic); without one they keep their own.
        crop_padding: pixels a random crop may move; None for a sixteenth of the side.
        keep: of images that have scores: a share of each class such as 90%, those with the highest, or the lowest score
            that is kept, such as 0.5; None for all but those that the data set itself leaves out.
        flip: mirror half of the images; off for classes that are not symmetric, such as digits.
        erasing: chance that a rectangle of an image is blanked.
        channels_last: memory format of the images; the layers follow it.
        initial: a `model.safetensors` whose weights are the first; None for fresh ones.
        deepspeed: DeepSpeed configuration (JSON), merged over the built-in one; its "auto" values are filled in from
            these settings.
        checkpoint_seconds: time between checkpoints, beside the one after every epoch.
    """

    arch: str = "resnet18"
    epochs: int = Field(30, ge=1)
    batch_size: int = Field(128, ge=2)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    warmup_share: float = Field(0.1, ge=0, lt=1)
    seed: Seed = 0
    validation_share: float = Field(0.05, ge=0, le=0.5)
    image_size: int | None = Field(None, ge=8, le=4096)
    crop_padding: int | None = Field(None, ge=0)
    keep: str | None = None
    flip: bool = True
    erasing: float = Field(0.25, ge=0, le=1)
    channels_last: bool = True
    initial: Path | None = None
    deepspeed: Path | None = None
    checkpoint_seconds: float = Field(60.0, ge=0)

    def rate_factor(self, step: int, steps: int) -> float:
        """Share of the peak learning rate at `step` of `steps`: linear warm-up, then a cosine to zero."""
        warmup = max(1, round(self.warmup_share * steps))
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


class AdaptSettings(Settings):
    """How a client fits the global model to its own images.

    Attributes:
        shots: labelled images of each class that it holds; all that there are, where there are fewer.
        seed: of which they are.
    """

    shots: int = Field(5, ge=1)
    seed: Seed = 0


class Job(Settings):
    """One training run as handed to the worker processes; what decides its result is in the settings alone."""

    synthetic: Path
    out: Path
    settings: TrainSettings
    track: Tracker | None = None


def check_arch(arch: str) -> None:
    """Check that an architecture is a built-in one or names a file; raises UsageError with the choice."""
    if arch not in ARCHITECTURES and not (arch.endswith(".json") and Path(arch).is_file()):
        what = "there is no file" if arch.endswith(".json") else "unknown architecture"
        raise UsageError(
            f"{what} {arch!r}", f"choose one of {', '.join(ARCHITECTURES)}, or the path of a .json model config"
        )


def read_json_object(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object that the user named on the command line.

    Raises:
        UsageError: the file is missing, not JSON or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{what} {path} cannot be read: {error}", "name a readable JSON file") from error
    if not isinstance(content, dict):
        raise UsageError(f"{what} {path} is not a JSON object", "it must look like {...}")
    return content
