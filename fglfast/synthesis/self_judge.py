"""How well an image fits its class, by a generator: the one that drew it, or another. It needs no other model.

It asks by class names alone, in the generator's own class-level prompt, whatever prompts the clients sent: so that an
image's score is that of its pixels and its label, and does not change as clients join or leave.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fglfast.client.prompts import class_level_prompts
from fglfast.engine.build import LazyEngine
from fglfast.engine.networks import sent
from fglfast.generator.encoder import ImageEncoder
from fglfast.generator.fingerprints import model_fingerprint
from fglfast.generator.learning.label_flow import load_label_flow, probabilities
from fglfast.generator.learning.student import Task
from fglfast.generator.load import own_device
from fglfast.generator.text import load_prompts, native_image_size
from fglfast.generator.tokens import load_tokenizer
from fglfast.sampler.evidence import Level, levels_between, misfits
from fglfast.synthesis.judge import columns_of, digest_of, fingerprint, own

LOW, HIGH = -5.0, -1.0  # logarithms of the signal-to-noise ratio; where classes differ most, for noise and images
LEVELS = 2
ASKED = 10  # classes at most that an image is held against, its own among them
SEED = 2303_16203  # of the noise


class GeneratorJudge:
    """Compares an image's denoising loss under its class's prompt with those under others (arXiv 2303.16203).

    Of many classes each is held against the few whose prompts are most like its own: what the others cost would grow
    with the classes, and tell little. `asked` counts its own class too; each of the levels of noise costs a pass of the
    UNet for every one that is asked about.

    Raises:
        BadInputError: the generator cannot be had, or what it was trained to predict is not known.
    """

    def __init__(self, lent: LazyEngine, class_names: Sequence[str], levels: int = LEVELS, asked: int = ASKED) -> None:
        self.lent, self.model = lent, lent.recipe.model_folder()
        rows = class_level_prompts(class_names, [1] * len(class_names), load_prompts(self.model).class_level)
        self.prompts = [row.prompt for row in rows]
        self.task, self.asked = Task.of_model(self.model), min(asked, len(class_names))
        self.levels: list[Level] = levels_between(self.task, LOW, HIGH, levels)
        weights, side = model_fingerprint(self.model), lent.recipe.image_size
        self.fingerprint = digest_of(weights, side, self.prompts, self.asked, LOW, HIGH, levels, SEED)

    def __call__(self, pixels_BSS3: NDArray[np.uint8], labels: Sequence[int]) -> NDArray[np.float64]:
        """As `Judge` says: the probability of each image's class among those it is held against, rounded."""
        networks, latents_BCHW = self.lent.engine.networks, self._encoder(pixels_BSS3)
        classes_BM = self._classes[list(labels)]
        used_U, place_BM = classes_BM.unique(return_inverse=True)
        text_ULE = networks.project(self._texts[sent(used_U, networks.device)])
        texts_MBLE = [text_ULE[sent(place_B.contiguous(), networks.device)] for place_B in place_BM.T]
        found_BM = misfits(networks.denoise, self.task, latents_BCHW, texts_MBLE, self.levels, self._noises)
        return own((-found_BM.cpu().double()).softmax(1), [0] * len(labels))

    @cached_property
    def _encoder(self) -> ImageEncoder:
        return ImageEncoder(self.model, self.lent.recipe.image_size, self.lent.engine.networks.device)

    @cached_property
    def _texts(self) -> Tensor:
        """Embeddings of the class prompts [K,L,D], where the engine computes."""
        networks, ids_KT = self.lent.engine.networks, load_tokenizer(self.model).tokenize(self.prompts)
        return torch.cat(
            [networks.encode(sent(ids_1T, networks.device)) for ids_1T in torch.from_numpy(ids_KT).long().split(1)]
        )

    @cached_property
    def _classes(self) -> Tensor:
        """For each class itself, then the others by how like its prompt theirs are [K,M]."""
        if self.asked == len(self.prompts):
            return torch.stack([torch.arange(self.asked).roll(-label) for label in range(self.asked)])
        return nearest(self._texts.flatten(1).cpu(), self.asked)

    @cached_property
    def _noises(self) -> Tensor:
        shape = (len(self.levels), *self.lent.engine.shapes.latent)
        noises = np.random.Generator(np.random.Philox(SEED)).standard_normal(shape, dtype=np.float32)
        return sent(torch.from_numpy(noises), self.lent.engine.networks.device)


class LabelFlowJudge:
    """Asks the flow of labels that `pretrain` taught beside a generator: one small pass an image.

    Raises:
        BadInputError: it has no label flow, or one that does not know all classes.
    """

    def __init__(self, model: Path, class_names: Sequence[str]) -> None:
        device = own_device()
        self.flow, names = load_label_flow(model, device)
        self.classes, self.columns = len(names), columns_of(model, names, class_names)
        self.encoder = ImageEncoder(model, native_image_size(model), device)
        prints = fingerprint(self.flow), fingerprint(self.encoder.vae)
        self.fingerprint = digest_of(*prints, class_names, self.columns)

    def __call__(self, pixels_BSS3: NDArray[np.uint8], labels: Sequence[int]) -> NDArray[np.float64]:
        """As `Judge` says; what else the flow knows does not count."""
        said_BK = probabilities(self.flow, self.encoder(pixels_BSS3), self.classes)[:, self.columns].cpu()
        return own(said_BK / said_BK.sum(1, keepdim=True), labels)


def nearest(texts_KD: Tensor, count: int) -> Tensor:
    """For each text itself, then those at the smallest angles to it, seen from the mean of all [K,count]."""
    directions_KD = torch.nn.functional.normalize(texts_KD.double() - texts_KD.double().mean(0), dim=1)
    likeness_KK = (directions_KD @ directions_KD.T).fill_diagonal_(2.0)  # above any other
    return likeness_KK.argsort(dim=1, descending=True, stable=True)[:, :count]
