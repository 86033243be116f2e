"""The sampler: a pure function over a Denoiser."""

from typing import Protocol

import torch
from torch import Tensor

from fglfast.sampler.schedule import Schedule
from fglfast.sampler.step_noise import Fresh, Given, numbered, options


class Denoiser(Protocol):
    """Predicts what the model was trained to predict (velocity for `mini`, noise for SD 1.5)."""

    def __call__(self, latents_BCHW: Tensor, timestep_B: Tensor, text_BLE: Tensor) -> Tensor:
        """Return the prediction [B,C,H,W]; timesteps are in the scheduler's units (0-1000).

        Of the text it takes what its cross-attention makes of it, which is the same at every step.
        """
        ...


@torch.inference_mode()
def sample(
    denoiser: Denoiser,
    noise_BCHW: Tensor,
    text_BLE: Tensor,
    negative_BLE: Tensor,
    schedule: Schedule,
    fresh: Fresh | None = None,
) -> Tensor:
    """Denoise a batch with classifier-free guidance (Ho and Salimans, arXiv 2207.12598) in one pass a step.

    Outside the guidance interval (Kynkaanniemi et al., arXiv 2404.07724) only the conditional rows are computed.

    All is computed where the noise lies. The solver's own few numbers stay on the host: PyTorch hands a GPU what has no
    dimension with the kernel that needs it, so that nothing is copied and nobody waits.

    Args:
        denoiser: the network; a guided step gives it 2B rows, unconditional first.
        noise_BCHW: starting noise, standard normal.
        text_BLE: text of every image as the denoiser takes it.
        negative_BLE: that of the negative (or empty) prompts; [L,E] for one prompt of all images.
        schedule: solver, steps and guidance.
        fresh: what a stochastic solver adds; without it `numbered` noise.

    Returns:
        Latents [B,C,H,W] as the VAE decoder expects them.
    """
    scheduler, given = schedule.start(), Given(fresh or numbered(noise_BCHW))
    extra = options(scheduler)
    latents_BCHW: Tensor = noise_BCHW * getattr(scheduler, "init_noise_sigma", 1.0)
    both_2BLE = torch.cat([negative_BLE.expand_as(text_BLE), text_BLE])
    for timestep in scheduler.timesteps:
        input_BCHW = latents_BCHW
        if hasattr(scheduler, "scale_model_input"):
            input_BCHW = scheduler.scale_model_input(latents_BCHW, timestep)
        timestep_B = torch.full((len(latents_BCHW),), float(timestep), device=latents_BCHW.device)
        if schedule.guides(float(timestep)):
            prediction_2BCHW = denoiser(torch.cat([input_BCHW] * 2), torch.cat([timestep_B] * 2), both_2BLE)
            free_BCHW, conditional_BCHW = prediction_2BCHW.chunk(2)
            prediction_BCHW = free_BCHW + schedule.guidance_scale * (conditional_BCHW - free_BCHW)
        else:
            prediction_BCHW = denoiser(input_BCHW, timestep_B, text_BLE)
        with given:
            latents_BCHW = scheduler.step(prediction_BCHW, timestep, latents_BCHW, return_dict=False, **extra)[0]
    return latents_BCHW
