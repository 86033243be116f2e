"""Load the networks of a diffusers directory as float32 PyTorch modules. Knows nothing of engines."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from fglfast.errors import BadInputError
from fglfast.generator.text_projection import TextProjection, take_projection
from fglfast.text import PARTS
from fglfast.text_encoder import TextPart, load_text_part


@dataclass(frozen=True)
class Shapes:
    """The fixed sizes of a generator's tensors.

    Attributes:
        latent: channels, height and width of the latents at the asked image size.
        tokens: tokens of a prompt (T).
        text_length: rows of a text embedding (L): T, and one more for SDXL's pooled embedding.
        text_width: channels of a text embedding (D).
        projected_width: channels of the keys and values that are made of it (E).
    """

    latent: tuple[int, int, int]
    tokens: int
    text_length: int
    text_width: int
    projected_width: int


class UNetPart(nn.Module):
    """(latents [B,C,H,W], timestep [B], projected text [B,L,E]) -> prediction [B,C,H,W]."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        """Return the model's own kind of prediction."""
        return cast(Tensor, self.unet(latents, timestep, text, return_dict=False)[0])


class XLUNetPart(UNetPart):
    """SDXL's UNet: the last row of `text` is the pooled embedding; sizes are those of an uncropped image."""

    def __init__(self, unet: UNet2DConditionModel, vae_factor: int) -> None:
        super().__init__(unet)
        self.vae_factor, config = vae_factor, unet.config
        self.pooled_width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim

    def forward(self, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        """Return the model's own kind of prediction."""
        height, width = (self.vae_factor * side for side in latents.shape[2:])
        # Filled where the latents are: a constant made on the CPU would keep the pass out of a CUDA graph.
        sizes = [latents.new_full((latents.shape[0], 1), side) for side in (height, width, 0, 0, height, width)]
        added = {"text_embeds": text[:, -1, : self.pooled_width], "time_ids": torch.cat(sizes, dim=1)}
        output = self.unet(latents, timestep, text[:, :-1], added_cond_kwargs=added, return_dict=False)
        return cast(Tensor, output[0])


class DecoderPart(nn.Module):
    """Sampled latents [B,C,H,W] -> images [B,3,S,S], nominally in [-1,1]."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae
        self.scale = float(vae.config.scaling_factor)

    def forward(self, latents: Tensor) -> Tensor:
        """Undo the latent scaling and decode."""
        return cast(Tensor, self.vae.decode(latents / self.scale, return_dict=False)[0])


@dataclass(frozen=True)
class Generator:
    """The float32 eager networks of one model folder, in evaluation mode."""

    text: TextPart
    projection: TextProjection
    unet: UNetPart
    decoder: DecoderPart


def load_generator(folder: Path, device: str = "cpu") -> Generator:
    """Load text encoder (or both), UNet and VAE decoder; safetensors only."""
    options: dict[str, Any] = {"torch_dtype": torch.float32, "use_safetensors": True}
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", **options)
    vae = AutoencoderKL.from_pretrained(folder / "vae", **options)
    part, projection = split_unet(unet, vae)
    generator = Generator(load_text_part(folder), projection, part, DecoderPart(vae))
    for network in (generator.text, generator.projection, generator.unet, generator.decoder):
        network.eval().requires_grad_(False).to(device)
    return generator


def split_unet(unet: UNet2DConditionModel, vae: AutoencoderKL) -> tuple[UNetPart, TextProjection]:
    """What of a UNet runs once a step, and what once a prompt."""
    if unet.config.addition_embed_type != "text_time":
        return UNetPart(unet), take_projection(unet)
    part = XLUNetPart(unet, 2 ** (len(vae.config.block_out_channels) - 1))
    return part, take_projection(unet, part.pooled_width)


def blank_networks(folder: Path) -> tuple[UNet2DConditionModel, AutoencoderKL]:
    """UNet and VAE on torch's meta device, by their configs: sizes without weights."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(_config(folder / "unet" / "config.json"))
        vae = AutoencoderKL.from_config(_config(folder / "vae" / "config.json"))
    return unet, vae


def read_shapes(folder: Path, image_size: int) -> Shapes:
    """Read the tensor sizes from the folder's configs, without its weights.

    Raises:
        BadInputError: a config is missing or the image size does not fit the latents.
    """
    tokens = _config(folder / "text_encoder" / "config.json")["max_position_embeddings"]
    unet, vae = blank_networks(folder)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    deepest = factor * 2 ** (len(unet.config.block_out_channels) - 1)
    if image_size % deepest:
        raise BadInputError(f"image size {image_size} does not fit {folder.name}", f"use a multiple of {deepest}")
    side = image_size // factor
    _, projection = split_unet(unet, vae)
    return Shapes(
        latent=(unet.config.in_channels, side, side),
        tokens=tokens,
        text_length=tokens + (projection.pooled > 0),
        text_width=unet.config.cross_attention_dim,
        projected_width=projection.width,
    )


def weights_fingerprint(folder: Path) -> str:
    """sha256 over every weight and config file of the model's parts, names included."""
    digest = hashlib.sha256()
    for part in PARTS:
        for path in sorted((folder / part).glob("*")):
            if path.suffix in {".json", ".safetensors", ".txt"}:
                digest.update(f"{part}/{path.name}\0{path.stat().st_size}\0".encode())
                with path.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _config(path: Path) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path}: not a readable config ({error})", "use a complete diffusers directory") from error
