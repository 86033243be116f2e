"""The gate: a compiled engine against the float32 eager model it came from. Knows no backend."""

import math

import torch
from torch import Tensor

from fglfast.config import Settings
from fglfast.engine.networks import Networks
from fglfast.errors import FglError
from fglfast.generator.load import Generator, Shapes

TIMESTEPS = (999.0, 750.0, 500.0, 250.0, 20.0)
EULER_STEPS = 8


class Bounds(Settings):
    """The largest relative error of one pass and the smallest PSNR of a sampled image (dB)."""

    relative_error: float
    psnr: float


class Parity(Settings):
    """What was measured: relative L2 errors by network, worst case, and the full sample's PSNR in dB."""

    text_encoder: float
    unet: float
    vae_decoder: float
    psnr: float
    bounds: Bounds

    def problem(self) -> str:
        """What is out of bounds, or an empty string."""
        errors = {"text encoder": self.text_encoder, "UNet": self.unet, "VAE decoder": self.vae_decoder}
        worst = max(errors, key=lambda name: errors[name] if math.isfinite(errors[name]) else math.inf)
        if not errors[worst] <= self.bounds.relative_error:
            return f"{worst} relative error {errors[worst]:.2e} > {self.bounds.relative_error:.0e}"
        if not self.psnr >= self.bounds.psnr:
            return f"sampled images differ: PSNR {self.psnr:.1f} dB < {self.bounds.psnr:.0f} dB"
        return ""


# Two to three times the worst that PyTorch measured with the same arithmetic: bfloat16 1.8e-2 and 50.7 dB, float16
# 2.0e-3 and 69.6 dB on narrow random sd15, sd21-base and sdxl at 128 pixels; on mini, trained, 5.0e-3 and 55 dB,
# 5.9e-4 and 77 dB. What overflows or drops a layer is far outside.
BOUNDS = {
    "float32": Bounds(relative_error=2e-3, psnr=45.0),
    "bfloat16": Bounds(relative_error=4e-2, psnr=40.0),
    "float16": Bounds(relative_error=6e-3, psnr=50.0),
}


@torch.inference_mode()
def measure(networks: Networks, reference: Generator, shapes: Shapes, token_ids_BL: Tensor, bounds: Bounds) -> Parity:
    """Compare on several timesteps and prompts, and on one full sample.

    Args:
        networks: the compiled engine.
        reference: the float32 eager generator.
        shapes: sizes of latents and text.
        token_ids_BL: prompts to compare on, int64 [B,L].
        bounds: what is allowed.
    """
    text_BLD = reference.text(token_ids_BL)
    generator = torch.Generator().manual_seed(0)
    noise_BCHW = torch.randn(len(token_ids_BL), *shapes.latent, generator=generator)
    unet_error = max(
        _relative_error(
            networks.denoise(noise_BCHW, _timestep(t, noise_BCHW), text_BLD),
            reference.unet(noise_BCHW, _timestep(t, noise_BCHW), text_BLD),
        )
        for t in TIMESTEPS
    )
    latents_BCHW = _euler(reference.unet, noise_BCHW, text_BLD)
    expected = reference.decoder(latents_BCHW)
    sampled = networks.decode(_euler(networks.denoise, noise_BCHW, text_BLD))
    return Parity(
        text_encoder=_relative_error(networks.encode(token_ids_BL), text_BLD),
        unet=unet_error,
        vae_decoder=_relative_error(networks.decode(latents_BCHW), expected),
        psnr=_psnr(sampled, expected),
        bounds=bounds,
    )


def require(parity: Parity, what: str) -> None:
    """Refuse an engine that is out of bounds.

    Raises:
        FglError: naming the network and the error.
    """
    problem = parity.problem()
    if problem:
        raise FglError(
            f"{what} failed the parity gate: {problem}", "nothing was kept; use another backend or precision"
        )


def _euler(denoise, noise_BCHW: Tensor, text_BLD: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    """A short full trajectory x <- x - v/n: errors of one pass add up as they would in sampling."""
    x_BCHW = noise_BCHW
    for step in range(EULER_STEPS):
        timestep_B = _timestep(1000.0 * (1.0 - step / EULER_STEPS), noise_BCHW)
        x_BCHW = x_BCHW - denoise(x_BCHW, timestep_B, text_BLD) / EULER_STEPS
    return x_BCHW


def _timestep(value: float, like: Tensor) -> Tensor:
    return torch.full((len(like),), value)


def _relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm().clamp_min(1e-12))


def _psnr(actual: Tensor, expected: Tensor) -> float:
    error = float((actual.clamp(-1, 1) - expected.clamp(-1, 1)).square().mean())
    return 10.0 * math.log10(4.0 / max(error, 1e-12)) if math.isfinite(error) else -math.inf
