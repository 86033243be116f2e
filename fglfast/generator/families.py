"""Stable Diffusion's architectures: their configs, and models with random weights, as fast as the real ones.

Sizes are those of the published configs (Rombach et al., arXiv 2112.10752; Podell et al., arXiv 2307.01952). The
narrow ones have the same blocks in the same order with few channels, for tests.
"""

from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    ConfigMixin,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, PreTrainedModel

from fglfast.base.files import finished_folder
from fglfast.generator.architecture import build_tokenizer, text_config

Family = Literal["sd15", "sd21-base", "sdxl"]
Sizes = dict[str, Any]

TOKENS = 77
BLOCKS: Sizes = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
UNETS: dict[Family, Sizes] = {
    "sd15": BLOCKS
    | {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
    "sd21-base": BLOCKS
    | {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "attention_head_dim": (5, 10, 20, 20),
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
# hidden width, layers, heads, activation
TEXTS: dict[Family, tuple[tuple[int, int, int, str], ...]] = {
    "sd15": ((768, 12, 12, "quick_gelu"),),
    "sd21-base": ((1024, 23, 16, "gelu"),),
    "sdxl": ((768, 12, 12, "quick_gelu"), (1280, 32, 20, "gelu")),
}
SCALING: dict[Family, float] = {"sd15": 0.18215, "sd21-base": 0.18215, "sdxl": 0.13025}
NARROW_TEXT = 32
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def random_model(family: Family, folder: Path, narrow: bool = False) -> Path:
    """Write a diffusers folder of a family's architecture with random float16 weights, unless it is there; returns it.

    A narrow one has few channels and small images, and the same blocks.
    """
    if folder.exists():
        return folder
    torch.manual_seed(0)
    parts = _networks(family, build_tokenizer(["a photograph"], TOKENS), narrow)
    parts["scheduler"] = DPMSolverMultistepScheduler(**NOISE, steps_offset=1)
    for name in ("unet", "vae"):
        parts[name].half()
    with finished_folder(folder) as unfinished:
        _pipeline(family, parts).save_pretrained(unfinished)
    return folder


def write_configs(
    family: Family, folder: Path, tokenizer: CLIPTokenizer, scheduler: Any, side: int
) -> dict[str, nn.Module]:
    """Write a family's configs into an empty folder, laid out as diffusers does, without weights.

    Both tokenizers of a model are made of the one that is given; `side` is that of its images, in pixels.

    Returns:
        The networks by name, on PyTorch's meta device.
    """
    with torch.device("meta"):
        parts = _networks(family, tokenizer, sizes={"sample_size": side // 8}) | {"scheduler": scheduler}
    _pipeline(family, parts).save_config(folder)
    for name, made in parts.items():
        if isinstance(made, PreTrainedModel):
            made.config.save_pretrained(folder / name)
        elif isinstance(made, ConfigMixin):
            made.save_config(folder / name)
        elif made is not None:
            made.save_pretrained(folder / name)
    return {name: made for name, made in parts.items() if isinstance(made, nn.Module)}


def _networks(family: Family, tokenizer: CLIPTokenizer, narrow: bool = False, sizes: Sizes | None = None) -> Sizes:
    """The parts of a family's pipeline by name, but for its scheduler."""
    unet = UNETS[family] | (UNET_NARROW[family] if narrow else {}) | (sizes or {})
    texts = [(NARROW_TEXT, 2, 4, act) for *_, act in TEXTS[family]] if narrow else TEXTS[family]
    parts: dict[str, Any] = {
        "unet": UNet2DConditionModel(**unet),
        "vae": _vae(family, narrow, 8 * unet["sample_size"]),
        "text_encoder": CLIPTextModel(_text_config(texts[0], tokenizer)),
        "tokenizer": tokenizer,
        "feature_extractor": None,
    }
    if family == "sdxl":
        parts["text_encoder_2"] = CLIPTextModelWithProjection(_text_config(texts[1], tokenizer))
        parts["tokenizer_2"] = padded_with(tokenizer, "!")
    return parts


def _pipeline(family: Family, parts: Sizes) -> DiffusionPipeline:
    if family == "sdxl":
        return StableDiffusionXLPipeline(**parts)
    return StableDiffusionPipeline(**parts, safety_checker=None, requires_safety_checker=False)


def _vae(family: Family, narrow: bool, side: int) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 32, 32) if narrow else (128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=side,
        scaling_factor=SCALING[family],
    )


def _text_config(sizes: tuple[int, int, int, str], tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    *widths, activation = sizes
    return text_config(tokenizer, *widths, vocab_size=49408, hidden_act=activation, max_position_embeddings=TOKENS)


def padded_with(tokenizer: CLIPTokenizer, token: str) -> CLIPTokenizer:
    """A tokenizer of the same words that pads with another of them, as SDXL's second and Stable Diffusion 2's do."""
    assert token in tokenizer.get_vocab()
    other = deepcopy(tokenizer)
    other.pad_token = token
    return other


# What a narrow model changes; channels are multiples of the 32 groups, heads divide them.
UNET_NARROW: dict[Family, Sizes] = {
    "sd15": {
        "sample_size": 8,
        "block_out_channels": (32, 32, 64, 64),
        "attention_head_dim": 4,
        "cross_attention_dim": NARROW_TEXT,
    },
    "sd21-base": {
        "sample_size": 8,
        "block_out_channels": (32, 32, 64, 64),
        "attention_head_dim": (1, 2, 4, 4),
        "cross_attention_dim": NARROW_TEXT,
    },
    "sdxl": {
        "sample_size": 8,
        "block_out_channels": (32, 32, 64),
        "transformer_layers_per_block": (1, 1, 2),
        "attention_head_dim": (1, 2, 4),
        "cross_attention_dim": 2 * NARROW_TEXT,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": NARROW_TEXT + 6 * 8,
    },
}
