"""Between a VAE's latents and those that a UNet is trained on, by diffusers' rules."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class LatentSpace(nn.Module):
    """What a VAE's config says of its latents: z = x / scale, or x std / scale + mean, or x / scale + shift.

    Mean and deviation count together only, as in `StableDiffusionXLPipeline`; the shift is that of Stable Diffusion 3.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.scale = float(config["scaling_factor"])
        mean, std = config.get("latents_mean"), config.get("latents_std")
        self.normalized = mean is not None and std is not None
        self.shift = 0.0 if self.normalized else float(config.get("shift_factor") or 0)
        for name, values in (("mean", mean), ("std", std)) if self.normalized else ():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def to_vae(self, latents: Tensor) -> Tensor:
        """Sampled latents [B,C,H,W] as the VAE decodes them."""
        if self.normalized:
            return latents * self.std / self.scale + self.mean
        return latents / self.scale + self.shift if self.shift else latents / self.scale

    def from_vae(self, latents: Tensor) -> Tensor:
        """Encoded latents [B,C,H,W] as the UNet is trained on them."""
        if self.normalized:
            return (latents - self.mean) * self.scale / self.std
        return (latents - self.shift) * self.scale
