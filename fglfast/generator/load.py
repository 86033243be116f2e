"""Load the networks of a diffusers directory as float32 PyTorch modules. Knows nothing of engines."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from fglfast.console import no_loading_bars
from fglfast.errors import BadInputError

PARTS = ("text_encoder", "unet", "vae", "scheduler", "tokenizer")


@dataclass(frozen=True)
class Shapes:
    """The fixed sizes of a generator's tensors.

    Attributes:
        latent: channels, height and width of the latents at the asked image size.
        text_length: tokens of a prompt (L).
        text_width: channels of a text embedding (D).
    """

    latent: tuple[int, int, int]
    text_length: int
    text_width: int


class TextPart(nn.Module):
    """Token ids [B,L] -> text embeddings [B,L,D]."""

    def __init__(self, encoder: CLIPTextModel) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, token_ids: Tensor) -> Tensor:
        """Return the last hidden state."""
        return cast(Tensor, self.encoder(token_ids, return_dict=False)[0])


class UNetPart(nn.Module):
    """(latents [B,C,H,W], timestep [B], text [B,L,D]) -> prediction [B,C,H,W]."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        """Return the model's own kind of prediction."""
        return cast(Tensor, self.unet(latents, timestep, text, return_dict=False)[0])


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
    unet: UNetPart
    decoder: DecoderPart


def load_generator(folder: Path, device: str = "cpu") -> Generator:
    """Load text encoder, UNet and VAE decoder; safetensors only."""
    options: dict[str, Any] = {"torch_dtype": torch.float32, "use_safetensors": True}
    with no_loading_bars():
        text = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32, use_safetensors=True)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", **options)
    vae = AutoencoderKL.from_pretrained(folder / "vae", **options)
    generator = Generator(TextPart(text), UNetPart(unet), DecoderPart(vae))
    for part in (generator.text, generator.unet, generator.decoder):
        part.eval().requires_grad_(False).to(device)
    return generator


def read_shapes(folder: Path, image_size: int) -> Shapes:
    """Read the tensor sizes from the folder's configs, without its weights.

    Raises:
        BadInputError: a config is missing or the image size does not fit the latents.
    """
    vae, unet, text = (_config(folder / part / "config.json") for part in ("vae", "unet", "text_encoder"))
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    deepest = factor * 2 ** (len(unet["block_out_channels"]) - 1)
    if image_size % deepest:
        raise BadInputError(f"image size {image_size} does not fit {folder.name}", f"use a multiple of {deepest}")
    side = image_size // factor
    return Shapes((unet["in_channels"], side, side), text["max_position_embeddings"], unet["cross_attention_dim"])


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
