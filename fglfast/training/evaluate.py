"""The global model judged on labelled images."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fglfast.base.errors import BadInputError
from fglfast.base.untrusted import loading
from fglfast.images.labelled import LabelledImages
from fglfast.training.batches import DecodedImages
from fglfast.training.opta import nameable
from fglfast.training.predict import PASS, placed, predict
from fglfast.training.preprocessing import PROCESSOR, read_image_size
from fglfast.training.resnet import read_resnet
from fglfast.training.results import ClassResult, Evaluation

BINS = 15  # of confidence
MOST_CONFUSION = 1000  # classes that pairs are counted of: a hundred thousand have ten thousand million
SPOILED = "name another model, or train this one anew at a lower learning rate"


def evaluate(model_dir: Path | str, dataset: LabelledImages, batch_size: int = PASS) -> Evaluation:
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
    model, names, size = open_classifier(Path(model_dir), whole=False)
    labels = torch.from_numpy(dataset.named(names).labels)
    logits = predict(model, DecodedImages(dataset, size), batch_size=batch_size, name="evaluate")
    if not logits.isfinite().all():
        raise BadInputError(f"{model_dir}: the model's answers are not finite", SPOILED)
    named, answers = nameable(logits, labels), logits.argmax(1)
    rights = torch.bincount(labels[answers == labels], minlength=len(names)).tolist()
    totals = torch.bincount(labels, minlength=len(names)).tolist()
    return Evaluation(
        accuracy=sum(rights) / len(labels),
        n=len(labels),
        loss=cross_entropy(logits[named], labels[named]).item() if named.any() else None,
        ece=calibration_error(logits, labels),
        class_names=names,
        per_class={
            name: ClassResult(accuracy=right / total if total else None, n=total)
            for name, right, total in zip(names, rights, totals, strict=True)
        },
        confusion=_confusion(labels, answers, len(names)),
    )


def _confusion(labels_N: Tensor, answers_N: Tensor, classes: int) -> tuple[tuple[int, ...], ...]:
    """Images by true class and named class [K,K]; of more than `MOST_CONFUSION` classes nothing."""
    if classes > MOST_CONFUSION:
        return ()
    cells = torch.bincount(labels_N * classes + answers_N, minlength=classes**2).reshape(classes, classes)
    return tuple(tuple(row) for row in cells.tolist())


def calibration_error(logits_NK: Tensor, labels_N: Tensor) -> float:
    """Expected calibration error (Naeini et al., AAAI 2015; Guo et al., arXiv 1706.04599) over bins of equal width.

    Ours, as torchmetrics, which has it, takes longer to import than the images of a small test take to classify.
    """
    confidence_N, predicted_N = logits_NK.softmax(1).max(1)
    bins_N = torch.bucketize(confidence_N, torch.linspace(0, 1, BINS + 1), right=True)
    excess_N = confidence_N.double() - (predicted_N == labels_N).double()
    return float(torch.bincount(bins_N, excess_N).abs().sum() / len(labels_N))


def open_classifier(model_dir: Path, whole: bool = True) -> tuple[Any, tuple[str, ...], int]:
    """A saved classifier where it computes, the names of its classes, and the side in pixels of its images.

    Args:
        model_dir: as of `evaluate`.
        whole: as transformers has it, with its base model; else a ResNet may be one that says logits alone, sooner.

    Raises:
        BadInputError: the folder holds no such model, the model expects another normalisation or takes no images of
            the side that its processor says, or its weights are not finite.
    """
    size = read_image_size(model_dir)
    found: Any = None if whole else read_resnet(model_dir)
    if found is None:
        from fglfast.training.model import load_model

        found = load_model(model_dir)
    model, names = found
    if not all(weights.isfinite().all() for weights in model.state_dict().values()):
        raise BadInputError(f"{model_dir}: the model's weights are not finite", SPOILED)
    model = placed(model).to(memory_format=torch.channels_last)
    with loading(f"{model_dir} with images of {size} by {size} pixels", f"correct the size in {PROCESSOR}"):
        predict(model, torch.zeros(1, 3, size, size, dtype=torch.uint8))
    return model, names, size
