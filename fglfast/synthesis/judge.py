"""How well an image fits its class: what a judge is, and those that draw nothing: CLIP's kind, and classifiers."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fglfast.base.errors import BadInputError, UsageError
from fglfast.base.wording import first_line, some
from fglfast.generator.pretrained import open_pretrained
from fglfast.synthesis.plan import Item
from fglfast.training.evaluate import open_classifier
from fglfast.training.predict import predict

DIGITS = 4  # of a score
PROMPT = "a photo of a {label}."  # CLIP's own (arXiv 2103.00020, section 3.1.4)
ADVICE = (
    "give generator, label-flow, the folder of a classifier that train wrote or of a generator, or a CLIP or SigLIP "
    "model: a folder, or an id on the hub"
)


class Judge(Protocol):
    """Tells how well images fit their classes.

    Attributes:
        fingerprint: of its weights and of the classes it compares: another judge gives other scores.
    """

    fingerprint: str

    def __call__(self, pixels_BSS3: NDArray[np.uint8], labels: Sequence[int]) -> NDArray[np.float64]:
        """The probability, among all classes, of each image's own [B], rounded.

        An image's score does not depend on the others as long as their number is the same.
        """
        ...


def check_judge(wanted: str | None, judge: Judge | None) -> None:
    """Refuse to draw images of a data set whose scores another judge gave than the one at hand, or none.

    Raises:
        UsageError: it is another.
    """
    if (judge.fingerprint if judge else None) != wanted:
        raise UsageError("this is not the judge that scored the data set's images", "give the --judge that it had")


def scores_of(
    judge: Judge | None, items: Sequence[Item], pixels_BSS3: NDArray[np.uint8], size: int
) -> NDArray[np.float64] | None:
    """The scores of a batch [B]; None without a judge. It sees `size` images whatever the batch: see `Judge`."""
    if judge is None:
        return None
    labels, more = [item.label for item in items], size - len(items)
    padded = np.concatenate([pixels_BSS3, np.repeat(pixels_BSS3[-1:], more, axis=0)])
    return judge(padded, labels + [labels[-1]] * more)[: len(labels)]


class ClassifierJudge:
    """A saved image classifier that knows all classes, by their names."""

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        self.model, names, self.size = open_classifier(folder)
        self.name = str(folder)
        self.columns = columns_of(folder, names, class_names)
        self.fingerprint = digest_of(fingerprint(self.model), class_names, self.columns, self.size)

    def __call__(self, pixels_BSS3: NDArray[np.uint8], labels: Sequence[int]) -> NDArray[np.float64]:
        """As `Judge` says; what else the classifier knows does not count."""
        shape = (self.size, self.size)
        small = [np.asarray(Image.fromarray(each).resize(shape, Image.Resampling.BICUBIC)) for each in pixels_BSS3]
        logits_BK = predict(self.model, torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2))
        return own(logits_BK[:, self.columns].double().softmax(1), labels, self.name)


class TextJudge:
    """A model that compares images with texts, such as CLIP (arXiv 2103.00020) and SigLIP; float16 on a GPU.

    Its name is a hub id or a folder: safetensors only, no code of its own.

    Raises:
        BadInputError: it cannot be had, or transformers knows no such model.
    """

    def __init__(self, name: str, class_names: Sequence[str]) -> None:
        from transformers import AutoModelForZeroShotImageClassification

        self.images, tokenizer, self.model = open_pretrained(
            AutoModelForZeroShotImageClassification, name, "judge", ADVICE
        )
        prompts = [PROMPT.format(label=label) for label in class_names]
        self.name, self.fingerprint = name, digest_of(fingerprint(self.model), prompts)
        try:
            self.texts_KD = self._texts(tokenizer, prompts)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInputError(f"judge: {name} cannot judge ({first_line(error)})", ADVICE) from error

    @torch.inference_mode()
    def __call__(self, pixels_BSS3: NDArray[np.uint8], labels: Sequence[int]) -> NDArray[np.float64]:
        """As `Judge` says."""
        pixels_B3HW = self.images(images=list(pixels_BSS3), return_tensors="pt").pixel_values
        images_BD = _directions(self.model.get_image_features(pixels_B3HW.to(self.model.device, self.model.dtype)))
        logits_BK = self.model.logit_scale.exp() * images_BD @ self.texts_KD.T  # a bias is the same for all classes
        return own(logits_BK.float().cpu().double().softmax(1), labels, self.name)

    @torch.inference_mode()
    def _texts(self, tokenizer: Any, prompts: list[str]) -> Tensor:
        most = self.model.config.text_config.max_position_embeddings
        tokens = tokenizer(prompts, padding="max_length", truncation=True, max_length=most, return_tensors="pt")
        return _directions(self.model.get_text_features(**tokens.to(self.model.device)))


def fingerprint(model: torch.nn.Module) -> str:
    """sha256 over a model's weights, names included."""
    digest = hashlib.sha256()
    for name, weights in sorted(model.state_dict().items()):
        digest.update(name.encode() + weights.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def digest_of(*facts: object) -> str:
    """sha256 over facts, as JSON."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _directions(features: Any) -> Tensor:
    """Features of length one; transformers 5 answers with more than those."""
    found: Tensor = getattr(features, "pooler_output", features)
    return torch.nn.functional.normalize(found, dim=-1)


def own(probabilities_BK: Tensor, labels: Sequence[int], judge: str = "the generator") -> NDArray[np.float64]:
    """The probability of each image's own class [B], rounded.

    Raises:
        BadInputError: one is no number; the judge is named.
    """
    own_B = probabilities_BK[torch.arange(len(labels)), torch.tensor(list(labels))]
    if not own_B.isfinite().all():
        raise BadInputError(f"judge: the scores of {judge} are not finite", f"its weights are spoiled: {ADVICE}")
    return np.asarray(own_B.numpy().round(DIGITS))


def columns_of(judge: Path, names: Sequence[str], class_names: Sequence[str]) -> list[int]:
    """Where the judge in a folder has each of a data set's classes among the `names` of its own.

    Raises:
        BadInputError: it does not know them all.
    """
    if unknown := [name for name in class_names if name not in names]:
        raise BadInputError(f"judge: {judge} does not know {some(unknown)}", "give one of these classes")
    return [names.index(name) for name in class_names]
