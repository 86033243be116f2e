"""Load the networks of a diffusers directory as float32 PyTorch modules."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from fglfast.base.errors import BadInputError
from fglfast.base.untrusted import loading
from fglfast.generator.configs import Announced, announced, read_config
from fglfast.generator.kinds import check_kind
from fglfast.generator.latents import LatentSpace
from fglfast.generator.outline import outlined
from fglfast.generator.parts import part
from fglfast.generator.shapes import Shapes, text_shape
from fglfast.generator.text_part import TextPart, load_text_part
from fglfast.generator.text_projection import TextProjection, take_projection
from fglfast.generator.tokens import text_positions
from fglfast.generator.weights import variant, weight_files
from fglfast.generator.whole import require_whole

LARGEST = Announced(4_000, 5_000_000_000)  # where no weights are; SDXL's UNet has 1,680 and 2.6 billion


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
        self.vae_factor, self.pooled_width = vae_factor, pooled_width(unet)

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
        self.space = LatentSpace(vae.config)

    def forward(self, latents: Tensor) -> Tensor:
        """Undo the latent scaling and decode."""
        return cast(Tensor, self.vae.decode(self.space.to_vae(latents), return_dict=False)[0])


@dataclass(frozen=True)
class Generator:
    """The float32 eager networks of one model folder, in evaluation mode."""

    text: TextPart
    projection: TextProjection
    unet: UNetPart
    decoder: DecoderPart


def own_device() -> str:
    """Where this process computes: on its GPU, if PyTorch sees one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_generator(folder: Path, device: str = "cpu") -> Generator:
    """Load text encoder (or both), UNet and VAE decoder; safetensors only.

    Raises:
        BadInputError: the folder's configs and weights are not those of one model.
    """
    return assemble(load_text_part(folder), *load_modules(folder), device)


def load_modules(folder: Path) -> tuple[UNet2DConditionModel, AutoencoderKL]:
    """Load UNet and VAE as diffusers has them; safetensors only.

    Raises:
        BadInputError: the folder's configs and weights are not those of one model.
    """
    blank_networks(folder)  # refuses configs that ask for more memory than the weights fill
    with loading(folder):
        unet = read_network(UNet2DConditionModel, part(folder, "unet"))
        vae = read_network(AutoencoderKL, part(folder, "vae"))
    if unet.config.time_cond_proj_dim is not None:
        raise BadInputError(
            f"{folder}: its UNet asks for the guidance scale", "give the model by a recipe, which folds one into it"
        )
    return unet, vae


def read_network(kind: Any, folder: Path) -> Any:
    """A network of some class of diffusers, in float32, from its own folder."""
    return kind.from_pretrained(folder, torch_dtype=torch.float32, use_safetensors=True, variant=variant(folder))


def assemble(text: TextPart, unet: UNet2DConditionModel, vae: AutoencoderKL, device: str) -> Generator:
    """The networks of a model folder as a generator, over the weights of those given, which stay as they are."""
    part, projection = split_unet(_over_the_same_weights(unet), vae)
    generator = Generator(text, projection, part, DecoderPart(vae))
    for network in (generator.text, generator.projection, generator.unet, generator.decoder):
        network.eval().requires_grad_(False).to(device)
    return generator


def _over_the_same_weights(network: UNet2DConditionModel) -> UNet2DConditionModel:
    """A copy of a network's modules, not of its tensors: what is moved to a device in one is moved in both."""
    return deepcopy(network, {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())})


def pooled_width(unet: UNet2DConditionModel) -> int:
    """Channels of SDXL's pooled text embedding."""
    config = unet.config
    return int(config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim)


def vae_factor(vae: AutoencoderKL) -> int:
    """Pixels of an image for each latent, along a side."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def split_unet(unet: UNet2DConditionModel, vae: AutoencoderKL) -> tuple[UNetPart, TextProjection]:
    """Split a UNet, in place, into what runs once a step and what runs once a prompt."""
    if unet.config.addition_embed_type != "text_time":
        return UNetPart(unet), take_projection(unet)
    part = XLUNetPart(unet, vae_factor(vae))
    return part, take_projection(unet, part.pooled_width)


def blank_networks(folder: Path) -> tuple[UNet2DConditionModel, AutoencoderKL]:
    """UNet and VAE on torch's meta device, by their configs: sizes without weights, which need not be there.

    Raises:
        BadInputError: a config is missing, describes no such network, or one larger than the weights beside it or than
            any that is known; a weight is missing, or of another shape; or the model is of a kind that cannot be used.
    """
    check_kind(folder)
    return _blank(part(folder, "unet"), UNet2DConditionModel), _blank(part(folder, "vae"), AutoencoderKL)


def _blank(folder: Path, kind: Any) -> Any:
    config, weights = read_config(folder / "config.json"), weight_files(folder)
    with outlined(announced(folder) if weights else LARGEST, folder):
        network = kind.from_config(config)
    if weights:
        require_whole(network, folder)
    return network


def read_shapes(folder: Path, image_size: int) -> Shapes:
    """Read the tensor sizes from the folder's configs, without its weights.

    Raises:
        BadInputError: a config is missing or the image size does not fit the latents.
    """
    unet, vae = blank_networks(folder)
    config, factor = unet.config, vae_factor(vae)
    deepest = factor * 2 ** (len(config.block_out_channels) - 1)
    if image_size % deepest:
        raise BadInputError(f"image size {image_size} does not fit {folder.name}", f"use a multiple of {deepest}")
    side, (length, width) = image_size // factor, text_shape(folder)
    _, projection = split_unet(unet, vae)
    return Shapes(
        latent=(config.in_channels, side, side),
        tokens=text_positions(folder),
        text_length=length,
        text_width=width,
        projected_width=projection.width,
    )
