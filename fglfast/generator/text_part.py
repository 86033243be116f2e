"""The text encoder of a diffusers directory as a PyTorch module, for engines: token ids to text embeddings.

What clients do with it, without PyTorch, is `text_encoder`'s.
"""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from fglfast.base.console import no_loading_bars
from fglfast.base.untrusted import loading
from fglfast.generator.configs import announced
from fglfast.generator.outline import outlined
from fglfast.generator.parts import part
from fglfast.generator.tokens import after_end, read_tokenizer, second_padding
from fglfast.generator.weights import variant
from fglfast.generator.whole import require_whole

ENCODERS = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}


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

    def __init__(self, encoder: nn.Module, second: nn.Module, pad: int, eos: int, second_padding: int) -> None:
        super().__init__(encoder)
        self.second, self.pad, self.eos, self.second_padding = second, pad, eos, second_padding

    def forward(self, token_ids: Tensor) -> Tensor:
        """Return [B,T+1,D1+D2]; the tokenizers differ in nothing but what they pad with."""
        padding = after_end(token_ids, self.pad, self.eos)
        second_ids = torch.where(padding, torch.full_like(token_ids, self.second_padding), token_ids)
        first = self.encoder(token_ids, output_hidden_states=True).hidden_states[-2]
        second = self.second(second_ids, output_hidden_states=True)
        joined_BTD = torch.cat([first, second.hidden_states[-2]], dim=-1)
        pooled_B1D = pad(second.text_embeds, (0, joined_BTD.shape[-1] - second.text_embeds.shape[-1]))[:, None]
        return torch.cat([joined_BTD, pooled_B1D], dim=1)


def check_text_part(folder: Path) -> None:
    """Refuse what `load_text_part` would, as far as configs, tokenizers and the headers of weights tell.

    Raises:
        BadInputError: as `load_text_part`.
    """
    for name, kind in ENCODERS.items():
        if part(folder, name).is_dir():
            _outline(kind, part(folder, name))
    if part(folder, "text_encoder_2").is_dir():
        second_padding(folder, read_tokenizer(part(folder, "tokenizer")))


def load_text_part(folder: Path) -> TextPart:
    """The text encoder of a model folder, or both, in float32; safetensors only.

    Raises:
        BadInputError: config and weights are not those of one text encoder, or the tokenizers differ in more than
            padding.
    """
    first = _load(CLIPTextModel, part(folder, "text_encoder"))
    if not part(folder, "text_encoder_2").is_dir():
        return TextPart(first).eval()
    second = _load(CLIPTextModelWithProjection, part(folder, "text_encoder_2"))
    tokenizer = read_tokenizer(part(folder, "tokenizer"))
    return TwoTextParts(first, second, tokenizer.pad, tokenizer.eos, second_padding(folder, tokenizer)).eval()


def _outline(kind: Any, folder: Path) -> None:
    with outlined(announced(folder), folder):
        blank = kind(kind.config_class.from_pretrained(folder))
    require_whole(blank, folder)


def _load(kind: Any, folder: Path) -> Any:
    _outline(kind, folder)
    with loading(folder), no_loading_bars():
        return kind.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, variant=variant(folder))
