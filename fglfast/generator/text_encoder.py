"""The text encoder of a diffusers directory: token ids to text embeddings.

Stable Diffusion 1.x, 2.x and `mini` have one CLIP text encoder. SDXL has two, and a pooled embedding beside the
per-token ones: it travels as one more row of the same tensor, padded with zeros, so that payloads, engines and
samplers know a single text embedding [L,D] whatever the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from fglfast.base.console import no_loading_bars
from fglfast.base.untrusted import loading
from fglfast.generator.configs import announced
from fglfast.generator.outline import outlined
from fglfast.generator.parts import part
from fglfast.generator.text import text_fingerprint
from fglfast.generator.tokens import Tokenizer, load_tokenizer, read_tokenizer
from fglfast.generator.weights import variant


class TextPart(nn.Module):
    """Token ids [B,T] -> text embeddings [B,L,D]; L is T, and T+1 with SDXL's pooled row."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, token_ids: Tensor) -> Tensor:
        """Return the last hidden state."""
        return cast(Tensor, self.encoder(token_ids, return_dict=False)[0])


class TwoTextParts(TextPart):
    """SDXL (Podell et al., arXiv 2307.01952): both encoders' last but one hidden states, joined, and the pooled row."""

    def __init__(self, encoder: nn.Module, second: nn.Module, eos: int, second_padding: int) -> None:
        super().__init__(encoder)
        self.second, self.eos, self.second_padding = second, eos, second_padding

    def forward(self, token_ids: Tensor) -> Tensor:
        """Return [B,T+1,D1+D2]; the tokenizers differ in nothing but what they pad with."""
        is_end = (token_ids == self.eos).long()
        after_end = (is_end.cumsum(dim=1) - is_end) > 0
        second_ids = torch.where(after_end, torch.full_like(token_ids, self.second_padding), token_ids)
        first = self.encoder(token_ids, output_hidden_states=True).hidden_states[-2]
        second = self.second(second_ids, output_hidden_states=True)
        joined_BTD = torch.cat([first, second.hidden_states[-2]], dim=-1)
        pooled_B1D = pad(second.text_embeds, (0, joined_BTD.shape[-1] - second.text_embeds.shape[-1]))[:, None]
        return torch.cat([joined_BTD, pooled_B1D], dim=1)


def load_text_part(folder: Path) -> TextPart:
    """The text encoder of a model folder, or both, in float32; safetensors only.

    Raises:
        BadInputError: config and weights are not those of one text encoder.
    """
    first = _load(CLIPTextModel, part(folder, "text_encoder"))
    if not part(folder, "text_encoder_2").is_dir():
        return TextPart(first).eval()
    second = _load(CLIPTextModelWithProjection, part(folder, "text_encoder_2"))
    one, other = (read_tokenizer(part(folder, name)) for name in ("tokenizer", "tokenizer_2"))
    return TwoTextParts(first, second, one.eos, other.pad).eval()


def _load(kind: Any, folder: Path) -> Any:
    with outlined(announced(folder), folder):
        kind(kind.config_class.from_pretrained(folder))
    with loading(folder), no_loading_bars():
        return kind.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, variant=variant(folder))


@dataclass(frozen=True)
class TextEncoder:
    """Tokenizer and text encoder of one folder, float32 on the CPU.

    Attributes:
        tokenizer: the (first) one.
        part: the text encoder in evaluation mode.
        fingerprint: see `text_fingerprint`.
    """

    tokenizer: Tokenizer
    part: TextPart
    fingerprint: str

    @classmethod
    def load(cls, folder: Path) -> "TextEncoder":
        """Open the text side of a model folder; safetensors only."""
        return cls(load_tokenizer(folder), load_text_part(folder), text_fingerprint(folder))

    def tokenize(self, prompts: Sequence[str]) -> NDArray[np.int32]:
        """Token ids [N,T] of prompts; see `Tokenizer.tokenize`."""
        return self.tokenizer.tokenize(prompts)

    @torch.inference_mode()
    def encode(self, token_ids_NT: NDArray[np.int32]) -> NDArray[np.float32]:
        """Text embeddings [N,L,D].

        Each row is a pass of its own: how a product is rounded depends on the shape of its batch, so in a shared one a
        prompt more or less could change the others' last bits, which a private payload must not tell.
        """
        rows = torch.from_numpy(token_ids_NT).long().split(1)
        return torch.cat([self.part(row_1T) for row_1T in rows]).float().numpy()
