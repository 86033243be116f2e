"""Images to the latents that a model's UNet is trained on: its VAE's encoder, in float32 PyTorch."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fglfast.base.untrusted import loading
from fglfast.generator.latents import LatentSpace
from fglfast.generator.load import blank_networks, read_network
from fglfast.generator.parts import part


class ImageEncoder:
    """The encoder of a model folder, for images of a side in pixels; others are brought to it.

    Raises:
        BadInputError: the folder's configs and weights are not those of one model.
    """

    def __init__(self, folder: Path, side: int, device: str) -> None:
        blank_networks(folder)  # refuses configs that ask for more memory than the weights fill
        with loading(folder):
            vae: AutoencoderKL = read_network(AutoencoderKL, part(folder, "vae"))
        self.vae = vae.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
        self.space, self.side = LatentSpace(vae.config).to(device), side

    @torch.inference_mode()
    def __call__(self, pixels_BSS3: NDArray[np.uint8]) -> Tensor:
        """Latents [B,C,H,W], as `encoded` has them."""
        if pixels_BSS3.shape[1] != self.side:
            shape, way = (self.side, self.side), Image.Resampling.BICUBIC
            pixels_BSS3 = np.stack([np.asarray(Image.fromarray(each).resize(shape, way)) for each in pixels_BSS3])
        return encoded(self.vae, self.space, pixels_BSS3).contiguous()


def encoded(vae: AutoencoderKL, space: LatentSpace, pixels_BSS3: NDArray[np.uint8]) -> Tensor:
    """Latents [B,C,H,W] by a VAE, where it computes: the posterior's mean, which is drawn from nobody's noise."""
    pixels_B3SS = torch.from_numpy(np.ascontiguousarray(pixels_BSS3)).permute(0, 3, 1, 2).to(vae.device, torch.float32)
    return space.from_vae(vae.encode(pixels_B3SS / 127.5 - 1).latent_dist.mean)
