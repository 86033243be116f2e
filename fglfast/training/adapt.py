"""A saved model, fitted to a client: a new last layer by a few of its labelled images, if that names more of them.

Three layers are compared, each on shots that it has not seen: the trained one, which has seen none; nearest prototype
by the shots; and those prototypes moved by transport (`opta`). A new one has to be clearly better, so that a client
whose images are like the synthetic ones keeps what it has.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from fglfast.base.errors import BadInputError, UsageError
from fglfast.base.files import write_atomic
from fglfast.base.writable import CARD, check_card, usable_folder
from fglfast.images.labelled import LabelledImages, concatenate
from fglfast.shards.index import Rows
from fglfast.training.batches import DecodedImages, Pixels, generator
from fglfast.training.card import fitted_card
from fglfast.training.evaluate import open_classifier
from fglfast.training.model import head_of, save_model
from fglfast.training.opta import Delivered, Head, Seen, by_shots, by_transport, nameable
from fglfast.training.prototypes import (
    Prototypes,
    head_inputs,
    load_prototypes,
    remove_prototypes,
    save_prototypes,
    synthetic_prototypes,
)
from fglfast.training.results import AdaptResult
from fglfast.training.run_folder import MODEL_FILES
from fglfast.training.settings import AdaptSettings

RECORD = "adapt.json"  # of what was done
FOLDS = 5  # parts of the shots, each judged by a layer of the others
CLEARLY = 2.0  # standard errors by which a new layer has to name more of the shots
PLAINLY = 1.5  # by which the trained one has to name less than half, where no shot can be spared to judge
MOST_OTHERS = 500  # images without labels: more move a prototype no further
LAYERS: dict[str, Callable[[Delivered, Seen], Head]] = {"prototypes": by_shots, "moved": by_transport}
TEMPERATURES = torch.logspace(-6, 6, 25, base=2, dtype=torch.float64)


@dataclass(frozen=True)
class Shots:
    """Which of a client's images are looked at.

    Attributes:
        labelled: rows whose labels are.
        others: rows of which only the image is.
        share: which part of all the images each class is [K].
    """

    labelled: Rows
    others: Rows
    share: "np.ndarray[tuple[int], np.dtype[np.float64]]"


@dataclass(frozen=True)
class ChosenLayer:
    """The last layer that was chosen.

    Attributes:
        layer: its name: trained, or one of `LAYERS`.
        head: itself; None for the trained one.
        before: share of the shots that the trained one names rightly.
        after: that the chosen one does, each shot by a layer that has not seen it; None where none can be spared.
    """

    layer: str
    head: Head | None
    before: float
    after: float | None


def draw_shots(labels_N: Rows, rows: Rows, classes: int, settings: AdaptSettings) -> Shots:
    """Choose the shots of each class among some rows, and other images of those that are left."""
    members = [
        generator(settings.seed, 4, label).permutation(rows[labels_N[rows] == label]) for label in range(classes)
    ]
    labelled = np.sort(np.concatenate([own[: settings.shots] for own in members]))
    others = generator(settings.seed, 5).permutation(np.setdiff1d(rows, labelled))[:MOST_OTHERS]
    return Shots(labelled, np.sort(others), np.array([len(own) for own in members]) / len(rows))


def adapt_model(
    model: PreTrainedModel, prototypes: Prototypes, pixels: Pixels, labels_N: Tensor, shots: Shots
) -> ChosenLayer:
    """Give a classifier the last layer that suits a client best, in place, by the prototypes that it came with.

    Labels are as the model numbers them; of the client's images, the shots are looked at.

    Raises:
        BadInputError: the classifier's last layer is not linear.
    """
    head, count = head_of(model), len(shots.labelled)
    features_NF = head_inputs(model, pixels, np.concatenate([shots.labelled, shots.others])).double()
    seen = Seen(features_NF[:count], labels_N[shots.labelled], features_NF[count:], torch.from_numpy(shots.share))
    trained = Head(head.weight.detach().cpu().double(), head.bias.detach().cpu().double())
    delivered = Delivered(prototypes.means_KF.double(), prototypes.counts_K > 0, prototypes.spread.item())
    choice = choose(trained, delivered, seen)
    if choice.head is not None:
        with torch.no_grad():
            head.weight.copy_(choice.head.weight_KF)
            head.bias.copy_(choice.head.bias_K)
    return choice


def choose(trained: Head, delivered: Delivered, seen: Seen) -> ChosenLayer:
    """The best last layer for a client, the trained one unless another is clearly better."""
    right_S = trained(seen.shots_SF).argmax(1) == seen.labels_S
    before, count = right_S.double().mean().item(), len(right_S)
    fold_S = _folds(seen.labels_S)
    if fold_S is None:
        if count * (1 - 2 * before) > PLAINLY * math.sqrt(count):
            return ChosenLayer("moved", by_transport(delivered, seen), before, None)
        return ChosenLayer("trained", None, before, None)
    best = ChosenLayer("trained", None, before, before)
    for name, layer in LAYERS.items():
        logits_SK = _unseen(layer, delivered, seen, fold_S)
        found_S = logits_SK.argmax(1) == seen.labels_S
        won, lost = int((found_S & ~right_S).sum()), int((right_S & ~found_S).sum())
        after = found_S.double().mean().item()
        if won - lost > CLEARLY * math.sqrt(won + lost) and after > (best.after or 0.0):
            best = ChosenLayer(name, _tempered(layer(delivered, seen), logits_SK, seen.labels_S), before, after)
    return best


def adapt(
    model_dir: Path,
    dataset: LabelledImages,
    out: Path,
    settings: AdaptSettings,
    others: LabelledImages | None = None,
    synthetic: Path | None = None,
) -> AdaptResult:
    """Fit a saved classifier to a client's images; nothing is sent.

    Args:
        model_dir: folder of the model, with its prototypes.
        dataset: the client's labelled images.
        out: folder of the fitted model, made if missing; another than the model's.
        settings: how many of them are looked at.
        others: images whose labels are not looked at; unless given, those of the data set that are no shots.
        synthetic: folder of synthetic images to make the prototypes of, where none came with the model.

    Raises:
        UsageError: `out` holds another model or a README.md of its own, or cannot be written to.
        BadInputError: the folder holds no such model or no prototypes, or the data has a class that it does not know.
    """
    _check_place(model_dir, out)
    model, names, size = open_classifier(model_dir)
    dataset = dataset.named(names)
    prototypes = synthetic_prototypes(model, synthetic, size) if synthetic else _delivered(model, model_dir)
    shots = draw_shots(dataset.labels, np.arange(len(dataset)), len(names), settings)
    shown = dataset
    if others is not None:
        rows = len(dataset) + np.sort(generator(0, 5).permutation(len(others))[:MOST_OTHERS])
        shots, shown = replace(shots, others=rows), concatenate([dataset, others])
    choice = adapt_model(model, prototypes, DecodedImages(shown, size), torch.from_numpy(dataset.labels), shots)
    result = AdaptResult(
        model=out,
        layer=choice.layer,
        shots=len(shots.labelled),
        others=len(shots.others),
        classes=int((shots.share > 0).sum()),
        before=choice.before,
        after=choice.after,
    )
    out.mkdir(parents=True, exist_ok=True)
    remove_prototypes(out)  # an older model's: killed at any moment, none are left beside another one
    write_atomic(out / RECORD, result.model_dump_json(indent=1, exclude={"model"}) + "\n")
    save_model(model, out, size)
    save_prototypes(prototypes, out)
    write_atomic(out / CARD, fitted_card(result))
    return result


def _check_place(model_dir: Path, out: Path) -> None:
    usable_folder(out)
    there = any((out / name).exists() for name in MODEL_FILES)
    if out.resolve() == model_dir.resolve() or (there and not (out / RECORD).exists()):
        raise UsageError(f"{out}: holds a model that is not a fitted one", "choose another --out, so that it stays")
    check_card(out)


def _delivered(model: PreTrainedModel, folder: Path) -> Prototypes:
    if (found := load_prototypes(folder, model)) is None:
        raise BadInputError(
            f"{folder}: no prototypes came with the model",
            "add --prototypes SYNTHETIC, the folder of the images that it learned from: they are made of those",
        )
    return found


def _folds(labels_S: Tensor) -> Tensor | None:
    """The part of each shot, so that each class lies in as many parts as it can; None if no class has two shots."""
    counts = torch.bincount(labels_S)
    folds = min(FOLDS, int(counts.max()))
    if folds < 2:
        return None
    place_S = torch.zeros_like(labels_S)
    for label in torch.unique(labels_S).tolist():
        place_S[labels_S == label] = torch.arange(int(counts[label]))
    return place_S % folds


def _unseen(layer: Callable[[Delivered, Seen], Head], delivered: Delivered, seen: Seen, fold_S: Tensor) -> Tensor:
    """What layers made of the other parts say of the shots of each part [S,K]."""
    logits_SK = torch.zeros(len(fold_S), len(delivered.means_KF), dtype=torch.float64)
    for fold in torch.unique(fold_S).tolist():
        out_S = fold_S == fold
        if bool((~out_S).any()):
            logits_SK[out_S] = layer(delivered, seen.only(~out_S))(seen.shots_SF[out_S])
    return logits_SK


def _tempered(head: Head, logits_SK: Tensor, labels_S: Tensor) -> Head:
    """The layer scaled so that it is as sure of images that it has not seen as it is right (arXiv 1706.04599).

    Judged by shots whose class could be named without them; the layer as it is where there are none.
    """
    named_S = nameable(logits_SK, labels_S)
    if not named_S.any():
        return head
    logits_SK, labels_S = logits_SK[named_S], labels_S[named_S]
    losses = torch.stack([cross_entropy(logits_SK * factor, labels_S) for factor in TEMPERATURES])
    factor = TEMPERATURES[losses.argmin()]
    return Head(head.weight_KF * factor, head.bias_K * factor)
