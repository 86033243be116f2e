"""Tokenizer and text encoder of a diffusers directory: prompts to text embeddings. Knows no image.

Stable Diffusion 1.x, 2.x and `mini` have one CLIP text encoder. SDXL has two, and a pooled embedding beside the
per-token ones: it travels as one more row of the same tensor, padded with zeros, so that payloads, engines and
samplers know a single text embedding [L,D] whatever the model.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from fglfast.base.console import no_loading_bars, note
from fglfast.base.errors import BadInputError
from fglfast.base.untrusted import loading
from fglfast.generator.configs import announced, read_config
from fglfast.generator.outline import outlined
from fglfast.generator.parts import part
from fglfast.generator.text import text_fingerprint
from fglfast.generator.weights import variant

MOST_TOKENS = 4096  # of a prompt


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
    padding, eos = _tokenizer(folder, "tokenizer_2").pad_token_id, _tokenizer(folder, "tokenizer").eos_token_id
    return TwoTextParts(first, second, eos, padding).eval()


def _load(kind: Any, folder: Path) -> Any:
    with outlined(announced(folder), folder):
        kind(kind.config_class.from_pretrained(folder))
    with loading(folder), no_loading_bars():
        return kind.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, variant=variant(folder))


def text_positions(folder: Path) -> int:
    """Tokens of a prompt (T) that the (first) text encoder of a model folder takes.

    Raises:
        BadInputError: its config does not say.
    """
    return _size(folder, "max_position_embeddings", MOST_TOKENS)


def vocabulary(folder: Path) -> int:
    """Token ids that the (first) text encoder of a model folder knows, from 0.

    Raises:
        BadInputError: its config does not say.
    """
    return _size(folder, "vocab_size", 1 << 20)


def _size(folder: Path, key: str, most: int) -> int:
    path = part(folder, "text_encoder") / "config.json"
    size = read_config(path).get(key)
    if not isinstance(size, int) or not 1 <= size <= most:
        raise BadInputError(f"{path}: {key} is {size!r}, not 1 to {most}", "use a complete diffusers directory")
    return size


@dataclass(frozen=True)
class TextEncoder:
    """Tokenizer and text encoder of one folder, float32 on the CPU.

    Attributes:
        tokenizer: pads and truncates to the model's length.
        part: the text encoder in evaluation mode.
        fingerprint: see `text_fingerprint`.
    """

    tokenizer: Any
    part: TextPart
    fingerprint: str

    @classmethod
    def load(cls, folder: Path) -> "TextEncoder":
        """Open the text side of a model folder; safetensors only."""
        return cls(load_tokenizer(folder), load_text_part(folder), text_fingerprint(folder))

    def fit(self, prompts: Sequence[str]) -> list[str]:
        """Prompts as they are encoded, the long ones shortened; see `fitting`."""
        return fitting(self.tokenizer, prompts)

    def tokenize(self, prompts: Sequence[str]) -> NDArray[np.int32]:
        """Token ids [N,T] of prompts; see `tokenize`."""
        return tokenize(self.tokenizer, prompts)

    @torch.inference_mode()
    def encode(self, token_ids_NT: NDArray[np.int32]) -> NDArray[np.float32]:
        """Text embeddings [N,L,D].

        Each row is a pass of its own: how a product is rounded depends on the shape of its batch, so in a shared one a
        prompt more or less could change the others' last bits, which a private payload must not tell.
        """
        rows = torch.from_numpy(token_ids_NT).long().split(1)
        return torch.cat([self.part(row_1T) for row_1T in rows]).float().numpy()


def load_tokenizer(folder: Path) -> Any:
    """The (first) tokenizer of a model folder.

    Raises:
        BadInputError: it cannot be read, or takes longer prompts than the text encoder.
    """
    tokenizer, most = _tokenizer(folder, "tokenizer"), text_positions(folder)
    if not 1 <= tokenizer.model_max_length <= most:
        raise BadInputError(
            f"{folder / 'tokenizer'}: model_max_length is {tokenizer.model_max_length}, the text encoder takes {most}",
            "use a complete diffusers directory",
        )
    return tokenizer


def _tokenizer(model: Path, name: str) -> Any:
    folder = part(model, name)
    if not folder.is_dir():
        raise BadInputError(f"{folder}: no tokenizer", "use a complete diffusers directory")
    with loading(folder):
        return CLIPTokenizer.from_pretrained(folder)


def tokenize(tokenizer: Any, prompts: Sequence[str]) -> NDArray[np.int32]:
    """Token ids [N,T] of prompts, padded; those too long are counted and shortened at a word."""
    length, texts = int(tokenizer.model_max_length), fitting(tokenizer, prompts)
    padded = tokenizer(texts, padding="max_length", truncation=True, max_length=length)
    return np.array(padded.input_ids, dtype=np.int32)


def fitting(tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """Prompts that are no longer than the text encoder takes: those too long are counted and shortened at a word."""
    length, texts = int(tokenizer.model_max_length), list(prompts)
    sizes = [len(ids) for ids in tokenizer(texts).input_ids]
    long = [row for row, size in enumerate(sizes) if size > length]
    for row in long:
        texts[row] = shortened(tokenizer, texts[row], length)
    if long:
        longest = max(long, key=lambda row: sizes[row])
        note(
            f"{len(long)} of {len(texts)} prompts are over {length} tokens (the longest has {sizes[longest]}) and "
            f"shortened at a word, such as to {texts[longest][-60:]!r}"
        )
    return texts


def shortened(tokenizer: Any, text: str, length: int) -> str:
    """As many leading words of a text as fit; of a script without spaces, as many letters."""
    for parts, space in ((text.split(), " "), (list(text), "")):

        def size(kept: int, parts: Sequence[str] = parts, space: str = space) -> int:
            return len(tokenizer(space.join(parts[:kept])).input_ids)

        kept = bisect_right(range(1, len(parts) + 1), length, key=size)
        if kept:
            return space.join(parts[:kept]).rstrip(" ,;:")
    return ""
