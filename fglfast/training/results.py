"""What training and evaluation answer. Knows no torch: pages and records read it."""

from pathlib import Path
from typing import Any

from fglfast.base.config import Settings

WEIGHTS = "model.safetensors"  # of a trained model, as transformers calls them


class TrainResult(Settings):
    """What a finished training run reports.

    Attributes:
        model: the folder, loadable by plain transformers.
        images: synthetic images trained on; `validation_images` were held out of them.
        parameters: weights of the model.
        seconds: time spent in epochs, over all resumptions.
        history: one row an epoch, as in `history.jsonl`.
        already_done: nothing was run, the folder held this very run finished.
    """

    model: Path
    images: int
    validation_images: int
    epochs: int
    steps: int
    processes: int
    parameters: int
    train_loss: float
    val_loss: float | None
    val_accuracy: float | None
    seconds: float
    images_per_second: float
    history: tuple[dict[str, Any], ...]
    already_done: bool = False


class AdaptResult(Settings):
    """What fitting a model to a client's images did.

    Attributes:
        model: the folder of the fitted model, loadable by plain transformers.
        layer: the last layer that was chosen: trained (nothing changed), prototypes, or moved.
        shots: labelled images that were looked at.
        others: images that were looked at without their labels.
        classes: that the client holds.
        before: share of the shots that the model named rightly as it was.
        after: the same of the fitted one, each shot by a layer that has not seen it; None where none can be spared.
    """

    model: Path
    layer: str
    shots: int
    others: int
    classes: int
    before: float
    after: float | None


class ClassResult(Settings):
    """One class: how many of its `n` images were recognised; no accuracy without images."""

    accuracy: float | None
    n: int


class Evaluation(Settings):
    """How well a model names labelled images.

    Attributes:
        accuracy: share of images named rightly.
        n: images judged.
        loss: mean cross entropy in nats, over images of classes that the model can name: a fitted one may know nothing
            of some; None without any.
        ece: expected calibration error over 15 bins of confidence (arXiv 1706.04599).
        class_names: the model's classes, in the order of `confusion`.
        per_class: result of every class of the model.
        confusion: images by true class (rows) and named class (columns); nothing where there are over 1,000 classes.
    """

    accuracy: float
    n: int
    loss: float | None
    ece: float
    class_names: tuple[str, ...]
    per_class: dict[str, ClassResult]
    confusion: tuple[tuple[int, ...], ...]
