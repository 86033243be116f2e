"""The first stage of pretraining: a VAE, the latents of all images by it, and grids of images to look at."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from fglfast.base.console import Progress, note
from fglfast.base.errors import BadInputError
from fglfast.base.files import placing
from fglfast.base.machine import native_bfloat16
from fglfast.generator.architecture import MiniSettings, build_vae
from fglfast.generator.learning.fitting import Fit, FitSettings

GRID = 16  # images a row of the VAE's grid
KL_WEIGHT = 2e-4
LATENTS, LEARN_LATENTS = "latents.safetensors", ("flow.pt", "labels.pt")


def train_vae(
    pixels_NCHW: Tensor, model: MiniSettings, settings: FitSettings, device: str, state: Path, grids: Path
) -> AutoencoderKL:
    """Train the VAE on the bytes of images; killed, it goes on from its last checkpoint in `state`.

    Grids show images beside what becomes of them.
    """
    vae = build_vae(model).to(device)
    fit = Fit("vae", nn.ModuleDict({"vae": vae}), settings, state)
    if fit.step < settings.steps:
        _forget_latents(state)

    def loss_function(batch_size: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(pixels_NCHW), (batch_size,), generator=generator)
        images_BCHW = _to_signed(pixels_NCHW[rows], device)
        with narrow(device):
            posterior = vae.encode(images_BCHW).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
            decoded_BCHW = vae.decode(posterior.mean + posterior.std * noise).sample
        error = decoded_BCHW.float() - images_BCHW
        divergence = 0.5 * (posterior.mean**2 + posterior.var - 1.0 - posterior.logvar).float().mean()
        loss: Tensor = error.abs().mean() + error.square().mean() + KL_WEIGHT * divergence
        return loss

    @torch.no_grad()
    def grid(step: int) -> None:
        columns = min(GRID, len(pixels_NCHW))
        whole_rows = min(2, len(pixels_NCHW) // columns)
        images_BCHW = _to_signed(pixels_NCHW[: whole_rows * columns], device)
        decoded_BCHW = vae.decode(vae.encode(images_BCHW).latent_dist.mean).sample
        note(f"vae: step {step}, reconstruction error {(decoded_BCHW - images_BCHW).square().mean():.5f}")
        save_grid(torch.cat([images_BCHW, decoded_BCHW]), columns, grids / f"vae-{step:06d}.png")

    fit.run(loss_function, grid)
    return vae.requires_grad_(False)


def _forget_latents(state: Path) -> None:
    """Latents of a VAE that is trained further are its latents no longer.

    Raises:
        BadInputError: a network has learned from them.
    """
    if learned := [path.stem for path in (state / name for name in LEARN_LATENTS) if path.exists()]:
        raise BadInputError(
            f"{state.parent}: its {' and '.join(learned)} learned from the latents of a VAE of fewer steps",
            "give as many --vae-steps as before, or another --out",
        )
    (state / LATENTS).unlink(missing_ok=True)


@torch.no_grad()
def encode_all(vae: AutoencoderKL, pixels_NCHW: Tensor, state: Path) -> Tensor:
    """Posterior mean and deviation of every image [N,2,C,H,W], kept in `state`; sets the VAE's scaling factor."""
    cache = state / LATENTS
    if not cache.exists():
        parts, device = [], next(vae.parameters()).device
        with Progress("latents", total=len(pixels_NCHW)) as progress:
            for batch_BCHW in pixels_NCHW.split(256):
                posterior = vae.encode(_to_signed(batch_BCHW, str(device))).latent_dist
                parts.append(torch.stack([posterior.mean, posterior.std], dim=1).cpu())
                progress.advance(len(batch_BCHW))
        with placing(cache) as unfinished:
            save_file({"moments": torch.cat(parts).contiguous()}, unfinished)
    moments_N2CHW = load_file(cache)["moments"]
    vae.register_to_config(scaling_factor=float(1.0 / moments_N2CHW[:, 0].std()))
    return moments_N2CHW


def save_grid(images_BCHW: Tensor, columns: int, path: Path) -> None:
    """Write images in [-1,1] as one PNG, `columns` a row."""
    pixels = ((images_BCHW.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    rows = [np.concatenate(list(pixels[i : i + columns]), axis=1) for i in range(0, len(pixels), columns)]
    Image.fromarray(np.concatenate(rows, axis=0)).save(path)


@contextmanager
def narrow(device: str) -> Iterator[None]:
    """bfloat16 where the device computes in it; on a CPU all but attention, whose gradients are slow in it."""
    native = torch.cuda.get_device_capability() >= (8, 0) if device == "cuda" else native_bfloat16()
    wide = _WideAttention() if native and device == "cpu" else nullcontext()
    with torch.autocast(device, torch.bfloat16, enabled=native), wide:
        yield


class _WideAttention(TorchFunctionMode):
    """Attention in float32, whatever type its inputs have and its output shall have."""

    def __torch_function__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        named = named or {}
        if function is not scaled_dot_product_attention:
            return function(*given, **named)
        with torch.autocast("cpu", enabled=False):
            query, *others = (tensor.float() for tensor in given[:3])
            return function(query, *others, *given[3:], **named).to(given[0].dtype)


def _to_signed(pixels_BCHW: Tensor, device: str) -> Tensor:
    images_BCHW = pixels_BCHW.to(device, torch.float32) / 127.5 - 1.0
    return images_BCHW.contiguous(memory_format=torch.channels_last)
