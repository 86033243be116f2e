"""Inversion: what an upload's embeddings say of the images behind them.

The attacker has the text encoder, as every client and the server do, and a vocabulary of captions that holds the true
ones. Each row of the upload is taken for the prompt of its class whose embedding is nearest.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from fglfast.base.config import Settings
from fglfast.generator.text_encoder import TextEncoder

Prompt = tuple[int, str]  # class, and the words


class Inverted(Settings):
    """What an attacker reads from uploads.

    Attributes:
        rows: of the uploads.
        read: different prompts, of a client and class, that rows were taken for.
        right: how many of those describe an image of that client.
        prompts: different prompts that describe the clients' images.
        lone: how many of those describe one image only.
        lone_read: how many of those the attacker read.
    """

    rows: int
    read: int
    right: int
    prompts: int
    lone: int
    lone_read: int

    @property
    def found(self) -> float:
        """Share of the true prompts that were read."""
        return self.right / self.prompts if self.prompts else 0.0

    @property
    def sure(self) -> float:
        """Share of what was read that is true."""
        return self.right / self.read if self.read else 0.0

    @property
    def lone_found(self) -> float | None:
        """Share of the prompts of one image only that were read."""
        return self.lone_read / self.lone if self.lone else None


@dataclass(frozen=True)
class Upload:
    """What an attacker sees of one client, and the truth.

    Attributes:
        embeddings_NLD: of each row.
        labels: class of each row [N].
        truth: prompts that describe the client's images, and how many images each describes.
    """

    embeddings_NLD: NDArray[Any]
    labels: NDArray[np.int64]
    truth: Counter[Prompt]


class Vocabulary:
    """All prompts of each class that an attacker tries, with their embeddings by the encoder of the uploads."""

    def __init__(self, prompts: Mapping[int, Sequence[str]], encoder: TextEncoder) -> None:
        self.prompts = {label: list(dict.fromkeys(own)) for label, own in prompts.items()}
        self.embeddings = {
            label: encoder.encode(encoder.tokenize(own)).astype(np.float16) for label, own in self.prompts.items()
        }

    def nearest(self, embeddings_NLD: NDArray[Any], labels: NDArray[np.int64]) -> set[Prompt]:
        """The prompts that rows are nearest to, each among those of its class."""
        found: set[Prompt] = set()
        for label in np.unique(labels).tolist():
            rows_BX, tried_VX = _flat(embeddings_NLD[labels == label]), _flat(self.embeddings[label])
            for index in cdist(rows_BX, tried_VX).argmin(axis=1).tolist():
                found.add((label, self.prompts[label][index]))
        return found


def invert(uploads: Iterable[tuple[Upload, Vocabulary]]) -> Inverted:
    """Read all uploads, each with the vocabulary that an attacker has for it."""
    return reduce(_added, (_inverted(upload, vocabulary) for upload, vocabulary in uploads))


def _inverted(upload: Upload, vocabulary: Vocabulary) -> Inverted:
    read = vocabulary.nearest(upload.embeddings_NLD, upload.labels)
    lone = {prompt for prompt, images in upload.truth.items() if images == 1}
    return Inverted(
        rows=len(upload.labels),
        read=len(read),
        right=len(read & upload.truth.keys()),
        prompts=len(upload.truth),
        lone=len(lone),
        lone_read=len(lone & read),
    )


def _added(one: Inverted, other: Inverted) -> Inverted:
    return Inverted(**{key: getattr(one, key) + getattr(other, key) for key in Inverted.model_fields})


def _flat(embeddings_NLD: NDArray[Any]) -> NDArray[np.float64]:
    return embeddings_NLD.astype(np.float64).reshape(len(embeddings_NLD), -1)
