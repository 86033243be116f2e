"""A payload in memory: rows of prompts, labels and counts."""

import hashlib
import sys
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fglfast.payload.header import REVEALS, PayloadHeader

Form = Literal["embeddings", "int8", "tokens"]  # of prompts
Carried = Literal[Form, "routes"]


@dataclass(frozen=True)
class Payload:
    """What one client sends; N rows, each a unique prompt of a class.

    Attributes:
        header: who sends it, and what the rows mean.
        embeddings: float16 text embeddings [N,L,D], or None.
        token_ids: int32 token ids [N,T], or None.
        labels: class of each row [N], indices into `header.class_names`.
        counts: private images behind each row [N], at least 1.
        int8: the file holds the embeddings in eight bits; in memory they are what those bits mean.
        routes: float16 routing logits [R,H] that mix the adapters of the server's inventory for all rows, or None. What
            travels is these, embeddings or token ids; the server makes embeddings of these, which stand beside them.
    """

    header: PayloadHeader
    embeddings: NDArray[np.float16] | None
    token_ids: NDArray[np.int32] | None
    labels: NDArray[np.int64]
    counts: NDArray[np.int64]
    int8: bool = False
    routes: NDArray[np.float16] | None = None

    @property
    def form(self) -> Carried:
        """What its file carries."""
        if self.routes is not None:
            return "routes"
        return "tokens" if self.embeddings is None else "int8" if self.int8 else "embeddings"

    @property
    def reveals(self) -> str:
        """What it tells of the client's images. Captions alike, or cut off, are fewer prompts than images."""
        header = self.header
        fewer = f": {len(self.labels):,} prompts for {self.counts.sum():,} images"
        return (
            REVEALS[header.prompt_level]
            + (fewer if header.prompt_level == "instance" else "")
            + ("; noise: see privacy" if header.privacy else "; no differential privacy")
        )

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The tensors that travel, by name."""
        prompts = ("routes",) if self.routes is not None else ("embeddings", "token_ids")
        named = {name: getattr(self, name) for name in (*prompts, "labels", "counts")}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def prompts(self) -> NDArray[Any]:
        """The embeddings, or the token ids; routed ones have embeddings when the server has made them."""
        rows = self.embeddings if self.embeddings is not None else self.token_ids
        assert rows is not None
        return rows

    def digest(self) -> str:
        """The payload hash: sha256 over the canonical header and the tensors, however the file carries them."""
        digest = hashlib.sha256(f"{self.header.canonical()}\0".encode())
        for name, tensor in self.tensors().items():
            digest.update(f"{name} {tensor.dtype.name} {tensor.shape}\0".encode())
            digest.update(little_endian(tensor).data)
        return digest.hexdigest()


def merge_equal(payload: Payload) -> Payload:
    """The payload with rows that are the same prompt of the same class made one, their counts added up."""
    places: dict[bytes, int] = {}
    kept: list[int] = []
    targets = []
    for row, (label, prompt) in enumerate(zip(payload.labels.tolist(), payload.prompts(), strict=True)):
        key = row_key(label, prompt)
        if key not in places:
            places[key] = len(kept)
            kept.append(row)
        targets.append(places[key])
    counts = np.zeros(len(kept), dtype=np.int64)
    np.add.at(counts, targets, payload.counts)
    return replace(
        payload,
        embeddings=None if payload.embeddings is None else payload.embeddings[kept],
        token_ids=None if payload.token_ids is None else payload.token_ids[kept],
        labels=payload.labels[kept],
        counts=counts,
    )


def row_key(label: int, row: NDArray[Any]) -> bytes:
    """Equal for equal rows of one class."""
    zero = row.dtype.type(0)  # added, it makes -0.0 equal to 0.0
    return hashlib.sha256(b"%d " % label + (row + zero).tobytes()).digest()


def little_endian(tensor: NDArray[Any]) -> NDArray[Any]:
    """The tensor as a file holds it."""
    order = tensor if sys.byteorder == "little" else tensor.astype(tensor.dtype.newbyteorder("<"))
    return np.ascontiguousarray(order)
