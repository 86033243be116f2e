"""Payload rows as a denoiser takes text."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fglfast.base.errors import BadInputError
from fglfast.engine.build import Engine
from fglfast.engine.networks import sent
from fglfast.engine.sketch import negative_embedding
from fglfast.generator.shapes import text_shape
from fglfast.generator.text import load_prompts, text_fingerprint
from fglfast.generator.tokens import text_positions, vocabulary
from fglfast.payload.merge import Merged


class Conditioning:
    """Projected text of the merged payloads' rows, and of the negative prompts of their domains.

    All of it lies where the engine computes; rows go there as the payload holds them, and do not come back.

    Raises:
        BadInputError: the payloads come from another text encoder, or their rows have another shape, or token ids that
            it does not know.
    """

    def __init__(self, merged: Merged, engine: Engine) -> None:
        check_fit(merged, engine.model)
        self.merged, self.networks = merged, engine.networks
        domains = sorted(set(merged.domains), key=str)
        prompts = [load_prompts(engine.model, domain).negative for domain in domains]
        distinct = sorted(set(prompts))
        encode = partial(negative_embedding, engine.networks, engine.shapes, engine.model)
        self._negatives_PLE = self.networks.project(torch.stack([encode(prompt) for prompt in distinct]))
        of_domain = {domain: distinct.index(prompt) for domain, prompt in zip(domains, prompts, strict=True)}
        self._of_client = np.array([of_domain[domain] for domain in merged.domains], dtype=np.int64)

    def rows(self, rows: Sequence[int]) -> Tensor:
        """Projected text [B,L,E] of payload rows; what is equal is projected once."""
        unique, inverse = np.unique(self.merged.content[list(rows)], return_inverse=True)
        if self.merged.embeddings is not None:
            text_ULD = self._sent(self.merged.embeddings[unique]).float()
        else:
            assert self.merged.token_ids is not None
            text_ULD = self.networks.encode(self._sent(self.merged.token_ids[unique]).long())
        return self.networks.project(text_ULD).index_select(0, self._sent(inverse))

    def negatives(self, rows: Sequence[int]) -> Tensor:
        """Projected negative prompt [B,L,E] of payload rows: what this model's folder says for their domain."""
        which = self._of_client[self.merged.row_client[list(rows)]]
        return self._negatives_PLE.index_select(0, self._sent(which))

    def _sent(self, array: NDArray[Any]) -> Tensor:
        return sent(torch.from_numpy(array), self.networks.device)


def negative_text(engine: Engine) -> Tensor:
    """Embedding [L,D] of the model's negative prompt for images of no particular domain, where the engine computes."""
    return negative_embedding(engine.networks, engine.shapes, engine.model, load_prompts(engine.model).negative)


def check_fit(merged: Merged, model: Path) -> None:
    """Refuse, as `Conditioning` does, payloads that the model in a folder cannot draw from; no engine need be there."""
    fingerprint = text_fingerprint(model)
    if merged.text_encoder != fingerprint:
        raise BadInputError(
            f"the payloads come from text encoder {merged.text_encoder[:16]}, {model.name}'s is {fingerprint[:16]}",
            f"draw with the model that they were embedded with, or embed again with --model {model.name}",
        )
    check_rows(merged, model)


def check_rows(merged: Merged, model: Path) -> None:
    """As `check_fit`, but for the text encoder, whose weights need not be there.

    Raises:
        BadInputError: the rows have another shape, or token ids that the model does not know.
    """
    expected: tuple[int, ...]
    if merged.embeddings is not None:
        found, expected = merged.embeddings.shape[1:], text_shape(model)
    else:
        assert merged.token_ids is not None
        found, expected = merged.token_ids.shape[1:], (text_positions(model),)
    if found != expected:
        raise BadInputError(f"payload rows have shape {found}, {model.name} takes {expected}", "embed with its model")
    if merged.token_ids is not None and merged.token_ids.max() >= (known := vocabulary(model)):
        content = int(np.flatnonzero((merged.token_ids >= known).any(axis=1))[0])
        client = merged.clients[merged.row_client[np.flatnonzero(merged.content == content)[0]]]
        raise BadInputError(f"client {client!r} sent a token id beyond the {known} known", "leave its payload out")
