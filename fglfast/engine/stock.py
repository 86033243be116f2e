"""Diffusers' own pipeline around networks that are loaded: what an engine is held against."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from fglfast.generator.kinds import CONSISTENCY, XL, pipeline_name
from fglfast.generator.latents import LatentSpace
from fglfast.generator.load import pooled_width, vae_factor
from fglfast.generator.scheduler import scheduler_config
from fglfast.sampler.schedule import Sampling, Schedule

if TYPE_CHECKING:  # a second to import, and not every model is sampled by one
    from diffusers import DiffusionPipeline

XL_CHANNELS = 4  # of the latents that SDXL's pipeline can normalize


def stock_pipeline(
    model: Path,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    sampling: Sampling,
    schedule: Schedule,
) -> "DiffusionPipeline | None":
    """The pipeline that a model folder names; None where it cannot sample so, or decodes otherwise than its VAE says.

    That of consistency models tells the UNet a guidance scale, which is folded into the weights here.

    With scheduler "model" the folder's own is read anew, as the pipeline would; `schedule` is what `sampling` means on
    this model.
    """
    name, scheduler = pipeline_name(model), schedule.start()
    steps_alone = schedule.timesteps is None and hasattr(scheduler, "init_noise_sigma")
    if not steps_alone or name == CONSISTENCY or not _decodes(name, vae):
        return None
    if sampling.scheduler == "model":
        scheduler = getattr(diffusers, schedule.scheduler).from_config(scheduler_config(model))
    parts: dict[str, Any] = {"unet": unet, "vae": vae, "scheduler": scheduler}
    parts |= dict.fromkeys(("text_encoder", "tokenizer", "feature_extractor"))
    if name == XL:
        parts |= {"text_encoder_2": None, "tokenizer_2": None, "add_watermarker": False}
    else:
        parts |= {"safety_checker": None, "requires_safety_checker": False}
    pipeline = getattr(diffusers, name)(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run_pipeline(pipeline: "DiffusionPipeline", noise_BCHW: Tensor, text_BLD: Tensor, schedule: Schedule) -> Tensor:
    """Sample without guidance, of text as `TextPart` makes it, and decode; returns the latents that were decoded."""
    ends: list[Tensor] = []

    def keep(_pipeline: Any, _step: int, _timestep: Any, held: dict[str, Tensor]) -> dict[str, Tensor]:
        ends.append(held["latents"])
        return {}

    text = {"prompt_embeds": text_BLD}
    if pipeline.__class__.__name__ == XL:
        pooled_BD = text_BLD[:, -1, : pooled_width(pipeline.unet)]
        text = {"prompt_embeds": text_BLD[:, :-1], "pooled_prompt_embeds": pooled_BD}
    height, width = (vae_factor(pipeline.vae) * side for side in noise_BCHW.shape[2:])
    pipeline(
        **text,
        latents=noise_BCHW,
        height=height,
        width=width,
        num_inference_steps=schedule.steps,
        guidance_scale=1.0,
        output_type="pt",
        callback_on_step_end=keep,
    )
    return ends[-1]


def _decodes(name: str, vae: AutoencoderKL) -> bool:
    """Whether a pipeline makes of latents what the VAE's config says of them."""
    space = LatentSpace(vae.config)
    if space.normalized:
        return name == XL and vae.config.latent_channels == XL_CHANNELS
    return not space.shift
