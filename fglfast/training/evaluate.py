"""The global model judged on labelled images."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fglfast.base.errors import BadInputError
from fglfast.generator.configs import read_config
from fglfast.images.decoding import MOST_SIDE
from fglfast.images.labelled import LabelledImages
from fglfast.training.batches import DecodedImages
from fglfast.training.opta import nameable
from fglfast.training.predict import placed, predict
from fglfast.training.resnet import read_resnet
from fglfast.training.results import ClassResult, Evaluation

BINS = 15  # of confidence
MODEL_HINT = "name a folder written by train"
SPOILED = "name another model, or train this one anew at a lower learning rate"
# Steps of an image processor that are ours, as `train` writes them; one that is absent or null is the processor's own.
STEPS = {"do_resize": True, "do_center_crop": False, "do_rescale": True, "do_normalize": True}


def evaluate(model_dir: Path, dataset: LabelledImages, batch_size: int = 256) -> Evaluation:
    """Judge a saved classifier; classes are matched by name, whatever their order.

    Args:
        model_dir: folder with config.json, preprocessor_config.json and model.safetensors.
        dataset: the labelled images.
        batch_size: images judged at once.

    Raises:
        BadInputError: the folder holds no such model, the model expects another normalisation or answers with what is
            no number, the data has a class the model does not know, or no images.
    """
    if len(dataset) == 0:
        raise BadInputError("there are no images to evaluate on", "name a data set with labelled images")
    size = _image_size(model_dir)
    model, names = read_resnet(model_dir) or _by_transformers(model_dir)
    labels = torch.from_numpy(dataset.named(names).labels)
    logits = predict(_ready(model, model_dir), DecodedImages(dataset, size), batch_size=batch_size, name="evaluate")
    if not logits.isfinite().all():
        raise BadInputError(f"{model_dir}: the model's answers are not finite", SPOILED)
    cells = labels * len(names) + logits.argmax(1)
    confusion = torch.bincount(cells, minlength=len(names) ** 2).reshape(len(names), len(names))
    rights, totals = confusion.diagonal().tolist(), confusion.sum(1).tolist()
    return Evaluation(
        accuracy=sum(rights) / len(labels),
        n=len(labels),
        loss=_loss(logits, labels),
        ece=calibration_error(logits, labels),
        class_names=names,
        per_class={
            name: ClassResult(accuracy=right / total if total else None, n=total)
            for name, right, total in zip(names, rights, totals, strict=True)
        },
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def _loss(logits_NK: Tensor, labels_N: Tensor) -> float | None:
    named_N = nameable(logits_NK, labels_N)
    return cross_entropy(logits_NK[named_N], labels_N[named_N]).item() if named_N.any() else None


def calibration_error(logits_NK: Tensor, labels_N: Tensor) -> float:
    """Expected calibration error (Naeini et al., AAAI 2015; Guo et al., arXiv 1706.04599) over bins of equal width.

    Ours, as torchmetrics, which has it, takes longer to import than the images of a small test take to classify.
    """
    confidence_N, predicted_N = logits_NK.softmax(1).max(1)
    bins_N = torch.bucketize(confidence_N, torch.linspace(0, 1, BINS + 1), right=True)
    excess_N = confidence_N.double() - (predicted_N == labels_N).double()
    return float(torch.bincount(bins_N, excess_N).abs().sum() / len(labels_N))


def open_classifier(model_dir: Path) -> tuple[Any, tuple[str, ...], int]:
    """A saved classifier where it computes, the names of its classes, and the side in pixels of its images.

    Raises:
        BadInputError: the folder holds no such model, the model expects another normalisation, or its weights are not
            finite.
    """
    size = _image_size(model_dir)
    model, names = _by_transformers(model_dir)
    return _ready(model, model_dir), names, size


def _by_transformers(model_dir: Path) -> tuple[Any, tuple[str, ...]]:
    from fglfast.training.model import load_model

    return load_model(model_dir)


def _ready(model: Any, model_dir: Path) -> Any:
    if not all(weights.isfinite().all() for weights in model.state_dict().values()):
        raise BadInputError(f"{model_dir}: the model's weights are not finite", SPOILED)
    return placed(model).to(memory_format=torch.channels_last)


def _image_size(model_dir: Path) -> int:
    """Side in pixels of the images the model was trained at."""
    path = model_dir / "preprocessor_config.json"
    if not model_dir.is_dir():
        raise BadInputError(f"{model_dir}: there is no such folder", MODEL_HINT)
    try:
        content = read_config(path)
        height, width = content["size"]["height"], content["size"]["width"]
        scaling = (content["image_mean"], content["image_std"])
    except (BadInputError, KeyError, TypeError) as error:
        raise BadInputError(
            f"{model_dir} holds no image classifier: {path.name} is missing or has no size", MODEL_HINT
        ) from error
    if not isinstance(height, int) or not 1 <= height <= MOST_SIDE or height != width:
        raise BadInputError(f"{path}: images of {height!r} by {width!r} pixels are not square", MODEL_HINT)
    if scaling != ([0.5] * 3, [0.5] * 3):
        raise BadInputError(
            f"{path}: the model does not take pixels from -1 to 1, as those that train writes do", MODEL_HINT
        )
    _check_steps(content, path)
    return height


def _check_steps(content: dict[str, Any], path: Path) -> None:
    """Refuse a processor that makes of an image what we do not: it would be judged on other pixels than it learned."""
    for key, ours in STEPS.items():
        if (said := content.get(key)) not in (None, ours):
            raise BadInputError(f"{path}: {key} is {said!r}, and images are prepared with {ours!r}", MODEL_HINT)
    factor = content.get("rescale_factor")
    if factor is not None and not (isinstance(factor, int | float) and math.isclose(factor, 1 / 255, rel_tol=1e-4)):
        raise BadInputError(f"{path}: rescale_factor is {factor!r}, and pixels are divided by 255", MODEL_HINT)
