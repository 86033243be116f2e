"""The gate: a compiled engine against the float32 model it came from.

How wrong an engine may be is measured, not set: a multiple of what eager PyTorch loses in the same precision, on the
same inputs and device. Compilers sum in another order and round in other places. Without one of its attentions or
residual blocks, any of them, a UNet was at least 3.2 times as wrong as eager bfloat16: mini, and a narrow random sd15.
"""

import math
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fglfast.base.config import Settings
from fglfast.base.errors import FglError
from fglfast.engine.networks import Networks
from fglfast.sampler.sample import sample

if TYPE_CHECKING:  # with diffusers' networks, which a finished engine's manifest need not wait for
    from fglfast.engine.trajectory import Trajectory

FACTOR = 2.5
# What is allowed where eager loses next to nothing. Float32 kernels that sum in another order are 1e-6 apart; a narrow
# random sd15 made more than 1e-4 of that on 6 of 150 inputs.
FLOOR = 2e-3
# What is allowed at most, whatever eager loses. Without one of its attentions or residual blocks mini's UNet is 0.015
# to 0.9 off. Float16 and TF32, a GPU's float32, keep 10 bits: eager lost up to 2.0e-3 in float16, and 1.8e-2 in
# bfloat16, on narrow random sd15, sd21-base and sdxl at 128 pixels; 9e-3 in bfloat16 on mini.
CAPS = {"float32": 1e-2, "float16": 1e-2, "bfloat16": 6e-2, "int8": 0.15, "float8": 0.15}
# In eight bits the cap alone holds for UNet and decoder. There is no eager PyTorch to compare with: torchao rounds a
# UNet's linear layers, and loses 0.013 on mini; OpenVINO rounds its convolutions and the decoder's too, and loses 0.08,
# which costs the global model nothing (benchmarks/results/accuracy-int8.json). Neither says what the other may lose.
EIGHT_BITS = ("int8", "float8")
LEAST_PSNR = 20.0  # dB; what is plainly another image. Sampling amplifies rounding, by how much depends on the model.
NAMES = {
    "text_encoder": "text encoder",
    "text_projection": "text projection",
    "unet": "UNet",
    "vae_decoder": "VAE decoder",
}


class Errors(Settings):
    """Relative L2 errors by network; of the UNet that of its worst pass."""

    text_encoder: float
    text_projection: float
    unet: float
    vae_decoder: float


class Parity(Errors):
    """What the gate measured of an engine.

    Attributes:
        psnr: of a full sample, in dB: the median of its images.
        eager: what eager PyTorch loses in the engine's precision, on the same inputs and device.
        allowed: what the engine was allowed to lose.
    """

    psnr: float
    eager: Errors
    allowed: Errors

    def problem(self) -> str:
        """What is out of bounds, or an empty string."""
        worst = max(NAMES, key=self._share)
        error, most, eager = (getattr(errors, worst) for errors in (self, self.allowed, self.eager))
        if not error <= most:
            return f"{NAMES[worst]} relative error {error:.2e} > {most:.1e} (eager PyTorch loses {eager:.1e})"
        if not self.psnr >= LEAST_PSNR:
            return f"sampled images differ: median PSNR {self.psnr:.1f} dB < {LEAST_PSNR:.0f} dB"
        return ""

    def _share(self, name: str) -> float:
        share = getattr(self, name) / max(getattr(self.allowed, name), 1e-12)
        return share if math.isfinite(share) else math.inf


def allowances(eager: Errors, precision: str) -> Errors:
    """What an engine may lose, by what eager PyTorch loses in its precision, or in the floats beside its eight bits."""
    cap = CAPS[precision]
    allowed = {name: min(cap, max(FLOOR, FACTOR * lost)) for name, lost in eager.model_dump().items()}
    if precision in EIGHT_BITS:
        allowed |= {"unet": cap, "vae_decoder": cap}
    return Errors(**allowed)


@torch.inference_mode()
def measure(networks: Networks, run: "Trajectory", eager: Errors, precision: str) -> Parity:
    """Compare pass by pass on what the float32 model sees while it samples, and on the images."""
    projected_BLE = networks.project(run.text)
    sampled = networks.decode(sample(networks.denoise, run.noise, projected_BLE, projected_BLE[0], run.schedule))
    allowed = allowances(eager, precision)
    return Parity(**errors(networks, run).model_dump(), psnr=_psnr(sampled, run.images), eager=eager, allowed=allowed)


@torch.inference_mode()
def errors(networks: Networks, run: "Trajectory") -> Errors:
    """What networks lose of a float32 run, each given what float32 gave the one before it.

    The UNet's passes are asked as one batch: alone, each would fill one of the engine's.
    """
    said = networks.denoise(*(torch.cat(tensors) for tensors in zip(*run.inputs, strict=True)))
    passes = zip(said.chunk(len(run.outputs)), run.outputs, strict=True)
    return Errors(
        text_encoder=_relative_error(networks.encode(run.token_ids), run.text),
        text_projection=_relative_error(networks.project(run.text), run.projected),
        unet=max(_relative_error(found, expected) for found, expected in passes),
        vae_decoder=_relative_error(networks.decode(run.latents), run.images),
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


def _relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.to(expected) - expected).norm() / expected.norm().clamp_min(1e-12))


def _psnr(actual: Tensor, expected: Tensor) -> float:
    """The median of the images', and minus infinity where one of them is not finite."""
    difference = actual.to(expected).clamp(-1, 1) - expected.clamp(-1, 1)
    means = difference.square().mean(dim=(1, 2, 3)).tolist()
    if not all(map(math.isfinite, means)):
        return -math.inf
    return median(10.0 * math.log10(4.0 / max(mean, 1e-12)) for mean in means)
