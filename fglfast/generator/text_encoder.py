"""The text encoder of a diffusers directory, as clients have it: prompts to text embeddings, without PyTorch.

Stable Diffusion 1.x, 2.x and `mini` have one CLIP text encoder. SDXL has two, and a pooled embedding beside the
per-token ones: it travels as one more row of the same tensor, padded with zeros, so that payloads, engines and
samplers know a single text embedding [L,D] whatever the model. Engines run the same in PyTorch (`text_part`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fglfast.generator.clip_text import ACTIVATIONS, ClipText
from fglfast.generator.configs import read_config
from fglfast.generator.kinds import networks
from fglfast.generator.parts import part
from fglfast.generator.text import text_fingerprint
from fglfast.generator.tokens import Tokenizer, after_end, load_tokenizer, second_padding


def unknown_to_clients(model: Path) -> dict[Path, str]:
    """The configs of a model's text encoders that PyTorch computes and `TextEncoder` does not, and their activation."""
    paths = [part(model, name) / "config.json" for name in networks(model, "text")]
    found = {path: str(read_config(path).get("hidden_act", "quick_gelu")) for path in paths}
    return {path: activation for path, activation in found.items() if activation not in ACTIVATIONS}


@dataclass(frozen=True)
class TextEncoder:
    """Tokenizer and text encoder of one folder, float32.

    Attributes:
        tokenizer: the (first) one.
        first: the (first) text encoder.
        second: SDXL's other one (Podell et al., arXiv 2307.01952), or None.
        padding: what the second one's tokenizer pads with; they differ in nothing else.
        fingerprint: see `text_fingerprint`.
    """

    tokenizer: Tokenizer
    first: ClipText
    second: ClipText | None
    padding: int
    fingerprint: str

    @classmethod
    def load(cls, folder: Path) -> "TextEncoder":
        """Open the text side of a model folder; safetensors only.

        Raises:
            BadInputError: it is none, or is not whole.
        """
        tokenizer, first = load_tokenizer(folder), ClipText(part(folder, "text_encoder"))
        if not part(folder, "text_encoder_2").is_dir():
            return cls(tokenizer, first, None, tokenizer.pad, text_fingerprint(folder))
        second = ClipText(part(folder, "text_encoder_2"))
        return cls(tokenizer, first, second, second_padding(folder, tokenizer), text_fingerprint(folder))

    def tokenize(self, prompts: Sequence[str]) -> NDArray[np.int32]:
        """Token ids [N,T] of prompts; see `Tokenizer.tokenize`."""
        return self.tokenizer.tokenize(prompts)

    def encode(self, token_ids_NT: NDArray[np.int32]) -> NDArray[np.float32]:
        """Text embeddings [N,L,D]; L is T, and T+1 with SDXL's pooled row.

        Each row is a pass of its own: how a product is rounded depends on the shape of its batch, so in a shared one a
        prompt more or less could change the others' last bits, which a private payload must not tell.
        """
        return np.stack([self._row(ids_T) for ids_T in token_ids_NT])

    def _row(self, ids_T: NDArray[np.int32]) -> NDArray[np.float32]:
        if self.second is None:
            return self.first(ids_T).last
        padding_T = after_end(ids_T, self.tokenizer.pad, self.tokenizer.eos)
        second = self.second(np.where(padding_T, self.padding, ids_T))
        joined_TD = np.concatenate([self.first(ids_T).before, second.before], axis=-1)
        assert second.pooled is not None
        pooled_1D = np.zeros_like(joined_TD[:1])
        pooled_1D[0, : len(second.pooled)] = second.pooled
        return np.concatenate([joined_TD, pooled_1D])
