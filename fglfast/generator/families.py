"""Stable Diffusion's architectures with random weights: as fast as the real ones, and nothing to download.

Sizes are those of the published configs (Rombach et al., arXiv 2112.10752; Podell et al., arXiv 2307.01952). The
narrow ones have the same blocks in the same order with few channels, for tests.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from fglfast.base.files import finished_folder
from fglfast.generator.architecture import build_tokenizer

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


def random_model(family: Family, folder: Path, narrow: bool = False, seed: int = 0) -> Path:
    """Write a diffusers folder of a family's architecture with random float16 weights; returns it.

    Args:
        family: which architecture.
        folder: what to write; left alone if it is there.
        narrow: few channels and small images, the same blocks.
        seed: of the weights.
    """
    if folder.exists():
        return folder
    torch.manual_seed(seed)
    unet = UNET_NARROW[family] if narrow else {}
    tokenizer = build_tokenizer(["a photograph"], TOKENS)
    texts = [(NARROW_TEXT, 2, 4, act) for *_, act in TEXTS[family]] if narrow else TEXTS[family]
    parts: dict[str, Any] = {
        "unet": UNet2DConditionModel(**(UNETS[family] | unet)).half(),
        "vae": _vae(family, narrow).half(),
        "text_encoder": CLIPTextModel(_text_config(texts[0], tokenizer)),
        "tokenizer": tokenizer,
        "scheduler": DPMSolverMultistepScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        "feature_extractor": None,
    }
    with finished_folder(folder) as unfinished:
        if family == "sdxl":
            parts["text_encoder_2"] = CLIPTextModelWithProjection(_text_config(texts[1], tokenizer))
            parts["tokenizer_2"] = _padded_with(tokenizer, "!")
            StableDiffusionXLPipeline(**parts).save_pretrained(unfinished)
        else:
            pipeline = StableDiffusionPipeline(**parts, safety_checker=None, requires_safety_checker=False)
            pipeline.save_pretrained(unfinished)
    return folder


def _vae(family: Family, narrow: bool) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 32, 32) if narrow else (128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=8 * (UNETS[family] | (UNET_NARROW[family] if narrow else {}))["sample_size"],
        scaling_factor=SCALING[family],
    )


def _text_config(sizes: tuple[int, int, int, str], tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    width, layers, heads, activation = sizes
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_act=activation,
        max_position_embeddings=TOKENS,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _padded_with(tokenizer: CLIPTokenizer, token: str) -> CLIPTokenizer:
    """SDXL's second tokenizer: the same vocabulary, padded with another token."""
    files = tokenizer.get_vocab()
    assert token in files
    other = build_tokenizer(["a photograph"], TOKENS)
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
