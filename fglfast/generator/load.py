"""Load the networks of a diffusers directory as float32 PyTorch modules. Knows nothing of engines."""

import hashlib
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from fglfast.base.errors import BadInputError
from fglfast.base.untrusted import loading
from fglfast.generator.configs import announced, read_config
from fglfast.generator.kinds import check_kind
from fglfast.generator.latents import LatentSpace
from fglfast.generator.outline import outlined
from fglfast.generator.parts import PARTS, part
from fglfast.generator.text import load_blocks
from fglfast.generator.text_encoder import TextPart, load_text_part, text_positions
from fglfast.generator.text_projection import TextProjection, take_projection


@dataclass(frozen=True)
class Shapes:
    """The fixed sizes of a generator's tensors.

    Attributes:
        latent: channels, height and width of the latents at the asked image size.
        tokens: tokens of a prompt (T).
        text_length: rows of a text embedding (L): T, and one more for SDXL's pooled embedding.
        text_width: channels of a text embedding (D).
        projected_width: channels of the keys and values that are made of it (E).
        boundaries: timesteps at which a UNet hands over to the next, descending; none for a single UNet.
    """

    latent: tuple[int, int, int]
    tokens: int
    text_length: int
    text_width: int
    projected_width: int
    boundaries: tuple[float, ...] = ()


def segment(timestep: float, boundaries: Sequence[float]) -> int:
    """Which of the UNets that share time a timestep belongs to, counted from the noise."""
    return sum(timestep <= boundary for boundary in boundaries)


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


class BlockwiseUNet(nn.Module):
    """UNets that share time between them: all rows of a pass are at one timestep, which is one UNet's own."""

    def __init__(self, parts: Sequence[UNetPart], boundaries: Sequence[float]) -> None:
        super().__init__()
        self.parts, self.boundaries = nn.ModuleList(parts), boundaries

    def forward(self, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        """Ask the UNet whose time it is."""
        return cast(Tensor, self.parts[segment(float(timestep[0]), self.boundaries)](latents, timestep, text))


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
    unet: UNetPart | BlockwiseUNet
    decoder: DecoderPart

    @property
    def unets(self) -> tuple[UNetPart, ...]:
        """The UNets by time, most often one."""
        return tuple(self.unet.parts) if isinstance(self.unet, BlockwiseUNet) else (self.unet,)  # type: ignore[arg-type]


def load_generator(folder: Path, device: str = "cpu") -> Generator:
    """Load text encoder (or both), UNet and VAE decoder; safetensors only.

    Raises:
        BadInputError: the folder's configs and weights are not those of one model.
    """
    return assemble(folder, load_text_part(folder), *load_modules(folder), device)


def load_modules(folder: Path) -> tuple[list[UNet2DConditionModel], AutoencoderKL]:
    """Load UNets and VAE as diffusers has them; safetensors only.

    Raises:
        BadInputError: the folder's configs and weights are not those of one model.
    """
    options: dict[str, Any] = {"torch_dtype": torch.float32, "use_safetensors": True}
    blank_networks(folder)  # refuses configs that ask for more memory than the weights fill
    with loading(folder):
        folders = [part(folder, name) for name in load_blocks(folder).folders]
        unets = [UNet2DConditionModel.from_pretrained(unet, **options) for unet in folders]
        vae = AutoencoderKL.from_pretrained(part(folder, "vae"), **options)
    return unets, vae


def assemble(
    folder: Path, text: TextPart, unets: Sequence[UNet2DConditionModel], vae: AutoencoderKL, device: str
) -> Generator:
    """The networks of a model folder as a generator, over the weights of those given, which stay as they are."""
    boundaries = load_blocks(folder).boundaries
    parts, projection = split_unets([_over_the_same_weights(unet) for unet in unets], vae)
    unet = BlockwiseUNet(parts, boundaries) if boundaries else parts[0]
    generator = Generator(text, projection, unet, DecoderPart(vae))
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
    """Pixels a latent's side."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def split_unets(unets: Sequence[UNet2DConditionModel], vae: AutoencoderKL) -> tuple[list[UNetPart], TextProjection]:
    """What of a model's UNets runs once a step, and what once a prompt; the UNets are changed in place."""
    if unets[0].config.addition_embed_type != "text_time":
        return [UNetPart(unet) for unet in unets], take_projection(unets)
    parts = [XLUNetPart(unet, vae_factor(vae)) for unet in unets]
    return [*parts], take_projection(unets, parts[0].pooled_width)


def blank_networks(folder: Path) -> tuple[list[UNet2DConditionModel], AutoencoderKL]:
    """UNets and VAE on torch's meta device, by their configs: sizes without weights.

    Raises:
        BadInputError: a config is missing, describes no such network, or one larger than the weights beside it; or the
            model is of a kind that cannot be used.
    """
    *unets, vae = (_blank(part(folder, name), kind) for name, kind in _networks(folder))
    return unets, vae


def _networks(folder: Path) -> list[tuple[str, Any]]:
    unets = load_blocks(folder).folders
    check_kind(folder, unets)
    return [*((unet, UNet2DConditionModel) for unet in unets), ("vae", AutoencoderKL)]


def _blank(folder: Path, kind: Any) -> Any:
    config = read_config(folder / "config.json")
    with outlined(announced(folder), folder):
        return kind.from_config(config)


def read_shapes(folder: Path, image_size: int) -> Shapes:
    """Read the tensor sizes from the folder's configs, without its weights.

    Raises:
        BadInputError: a config is missing or the image size does not fit the latents.
    """
    tokens = text_positions(folder)
    unets, vae = blank_networks(folder)
    config, factor = unets[0].config, vae_factor(vae)
    deepest = factor * max(2 ** (len(unet.config.block_out_channels) - 1) for unet in unets)
    if image_size % deepest:
        raise BadInputError(f"image size {image_size} does not fit {folder.name}", f"use a multiple of {deepest}")
    side = image_size // factor
    _, projection = split_unets(unets, vae)
    return Shapes(
        latent=(config.in_channels, side, side),
        tokens=tokens,
        text_length=tokens + (projection.pooled > 0),
        text_width=config.cross_attention_dim,
        projected_width=projection.width,
        boundaries=load_blocks(folder).boundaries,
    )


def weights_fingerprint(folder: Path) -> str:
    """sha256 over every weight and config file of the model's parts, names included."""
    digest, blocks = hashlib.sha256(), load_blocks(folder)
    if blocks.boundaries:
        digest.update(blocks.model_dump_json().encode())
    for name in (*PARTS, *blocks.folders[1:]):
        for path in sorted(part(folder, name).glob("*")):
            if path.suffix in {".json", ".safetensors", ".txt"}:
                digest.update(f"{name}/{path.name}\0{path.stat().st_size}\0".encode())
                with path.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
