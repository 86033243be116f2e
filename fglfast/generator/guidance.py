"""Networks that ask for the guidance scale itself, as latent consistency models do (arXiv 2310.04378, section 4.3).

One scale is folded into their weights: W (t + P e(w)) + b = W t + (b + W P e(w)). What comes of it is a model folder of
its own, made once and kept, so that all that follows takes it for any other.
"""

import math
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from fglfast.generator.kinds import embedded_guidance
from fglfast.generator.load import blank_networks, read_network
from fglfast.generator.made import copy_others, made_once, model_files
from fglfast.generator.parts import part


def with_guidance(model: Path, scale: float) -> Path:
    """A model folder whose UNet asks for no guidance scale any more (1 is none); the model's own if it asks for none.

    Raises:
        BadInputError: its configs and weights are not those of one model.
    """
    if not embedded_guidance(model):
        return model

    def make(folder: Path) -> None:
        blank_networks(model)  # refuses configs that ask for more memory than the weights fill
        unet: UNet2DConditionModel = read_network(UNet2DConditionModel, part(model, "unet"))
        fold(unet, scale)
        copy_others(model, folder)
        unet.save_pretrained(folder / "unet")

    return made_once(model.name, f"{model.name} with guidance {scale!r} in its UNet", model_files(model), make)


@torch.no_grad()
def fold(unet: Any, scale: float) -> None:
    """Make a UNet as it is at one guidance scale, in place."""
    embedding = unet.time_embedding
    guidance_D = embedding.cond_proj(scale_embedding(scale, embedding.cond_proj.in_features))
    embedding.linear_1.bias += embedding.linear_1.weight @ guidance_D
    embedding.cond_proj = None
    unet.register_to_config(time_cond_proj_dim=None)


def scale_embedding(scale: float, width: int) -> Tensor:
    """What such a UNet is told of a guidance scale [width]: sines and cosines of 1000 (scale - 1)."""
    half = width // 2
    angles = 1000.0 * (scale - 1.0) * torch.exp(torch.arange(half) * (-math.log(10_000.0) / (half - 1)))
    return torch.nn.functional.pad(torch.cat([angles.sin(), angles.cos()]), (0, width % 2))
