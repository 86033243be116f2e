"""A generator between `mini` and Stable Diffusion, with random weights: 35 million in its UNet. Knows no clock."""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from fglfast.base.files import finished_folder
from fglfast.generator.architecture import (
    MiniSettings,
    build_text_encoder,
    build_tokenizer,
    build_vae,
    save_pipeline,
)

WIDTH = 256
SIZES = MiniSettings(image_size=64, latent_channels=4, vae_channels=(32, 64, 128), text_width=WIDTH, max_tokens=77)


def unet_35m(folder: Path) -> Path:
    """Write the folder if it is not there: 64x64 images, latents 4x16x16, channels 128, 256, 256."""
    if folder.exists():
        return folder
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=SIZES.latent_size,
        in_channels=SIZES.latent_channels,
        out_channels=SIZES.latent_channels,
        block_out_channels=(128, 256, 256),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=2,
        cross_attention_dim=WIDTH,
        attention_head_dim=32,
    )
    tokenizer = build_tokenizer(["a photograph"], SIZES.max_tokens)
    with finished_folder(folder) as unfinished:
        save_pipeline(unfinished, build_vae(SIZES), unet, build_text_encoder(SIZES, tokenizer), tokenizer)
    return folder
