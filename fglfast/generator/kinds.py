"""Which kinds of model folder can be used, told from their configs alone. Loads no network.

A network that asks for more than latents, a timestep and a prompt would draw wrong images, or none after minutes.
"""

import math
from pathlib import Path
from typing import Any, Literal

from fglfast.base.errors import BadInputError
from fglfast.generator.configs import read_config
from fglfast.generator.parts import part

INDEX = "model_index.json"
STABLE_DIFFUSION, XL = "StableDiffusionPipeline", "StableDiffusionXLPipeline"
CONSISTENCY = "LatentConsistencyModelPipeline"
# What draws images from a prompt alone, and the text encoders that it has.
PIPELINES = {
    STABLE_DIFFUSION: ("text_encoder",),
    XL: ("text_encoder", "text_encoder_2"),
    CONSISTENCY: ("text_encoder",),
}
Need = Literal["all", "text", "configs"]  # of a model: all of it, what encodes prompts, or no network at all
HINT = "use a text-to-image model of Stable Diffusion 1.x, 2.x or XL, in diffusers' layout"
# Keys of a UNet, and what it is that they ask for.
ASKS = {
    "num_class_embeds": "a class or a noise level",
    "class_embed_type": "a class or a noise level",
    "encoder_hid_dim": "another embedding than the text encoder's",
    "encoder_hid_dim_type": "another embedding than the text encoder's",
    "dual_cross_attention": "two texts",
    "cross_attention_norm": "a normalized text",
}


def check_kind(folder: Path) -> None:
    """Refuse a model folder that is no text-to-image model of Stable Diffusion's architecture.

    Raises:
        BadInputError: naming the config, the key and what it says.
    """
    pipeline = check_index(folder)
    vae = _check_vae(part(folder, "vae") / "config.json")
    width = sum(_text_width(part(folder, name) / "config.json") for name in PIPELINES[pipeline])
    _check_unet(part(folder, "unet") / "config.json", pipeline, vae.get("latent_channels", 4), width)
    if pipeline == XL:
        _check_pooled(part(folder, "unet") / "config.json", part(folder, "text_encoder_2") / "config.json")
    else:
        _check_unmasked(part(folder, "text_encoder") / "config.json")


def check_needed(folder: Path, need: Need) -> None:
    """As `check_kind`; where a text side is all that is needed, of a folder that is more than that.

    Raises:
        BadInputError: as `check_kind`.
    """
    if need != "text" or all(part(folder, name).exists() for name in (INDEX, "unet")):
        check_kind(folder)


def embedded_guidance(folder: Path) -> bool:
    """Whether a model's UNet asks for the guidance scale, as latent consistency models do: see `with_guidance`."""
    return read_config(part(folder, "unet") / "config.json").get("time_cond_proj_dim") is not None


def zeros_for_empty(folder: Path) -> bool:
    """Whether a model's empty prompt is embedded as zeros: XL's is, unless its index says no."""
    index = read_config(folder / INDEX)
    return index.get("_class_name") == XL and bool(index.get("force_zeros_for_empty_prompt", True))


def pipeline_name(folder: Path) -> str:
    """Diffusers' class that a model folder is loaded with; empty where the folder does not say."""
    path = folder / INDEX
    return str(read_config(path).get("_class_name", "")) if path.exists() else ""


def networks(folder: Path, need: Need) -> tuple[str, ...]:
    """The networks of a model folder that are needed; where there is no index, the text encoders that are there."""
    there = tuple(name for name in PIPELINES[XL] if part(folder, name).is_dir())
    texts = PIPELINES.get(pipeline_name(folder), there or PIPELINES[STABLE_DIFFUSION])
    return {"all": ("unet", "vae", *texts), "text": texts, "configs": ()}[need]


def check_index(folder: Path) -> str:
    """Refuse a model by its `model_index.json` alone; returns the class of its pipeline.

    Raises:
        BadInputError: there is no such file, or the pipeline draws from more than a prompt; it names the class.
    """
    path = folder / INDEX
    if not path.exists():
        raise BadInputError(f"{folder}: not a diffusers directory (no {INDEX})", "give a complete model folder")
    index = read_config(path)
    name = index.get("_class_name")
    _require(isinstance(name, str) and name in PIPELINES, path, "_class_name", name, f"not {' or '.join(PIPELINES)}")
    refines = index.get("requires_aesthetics_score")
    _require(not refines, path, "requires_aesthetics_score", refines, "and a refiner draws from images")
    for encoder in PIPELINES[str(name)]:
        _require(index.get(encoder) != [None, None], path, encoder, None, f"and {name} has one")
    return str(name)


def _check_unet(path: Path, pipeline: str, channels: int, width: int) -> None:
    config = read_config(path)
    _check_class(path, config, "UNet2DConditionModel")
    for key, wanted in ASKS.items():
        _require(config.get(key) in (None, False), path, key, config.get(key), f"so the UNet asks for {wanted} too")
    added, usual = config.get("addition_embed_type"), "text_time" if pipeline == XL else None
    _require(added == usual, path, "addition_embed_type", added, f"and {pipeline} has {usual}")
    for key in ("in_channels", "out_channels"):
        found = config.get(key, 4)
        _require(found == channels, path, key, found, f"and that of vae has latent_channels {channels}")
    found = config.get("cross_attention_dim", 1280)
    _require(found == width, path, "cross_attention_dim", found, f"and the text has {width} channels")


def _check_pooled(path: Path, text: Path) -> None:
    """Refuse an XL whose UNet takes a pooled text, beside six numbers of sizes, of other channels than the text has."""
    config, pooled = read_config(path), read_config(text).get("projection_dim", 512)
    for key in ("addition_time_embed_dim", "projection_class_embeddings_input_dim"):
        _require(isinstance(config.get(key), int), path, key, config.get(key), "not a number of channels")
    _require(isinstance(pooled, int), text, "projection_dim", pooled, "not a number of channels")
    key, each = "projection_class_embeddings_input_dim", config["addition_time_embed_dim"]
    why = f"and projection_dim of {text.parent.name} + 6 * addition_time_embed_dim is {pooled} + 6 * {each}"
    _require(config[key] == pooled + 6 * each, path, key, config[key], why)


def _check_unmasked(path: Path) -> None:
    """Refuse a text encoder that diffusers has skip a prompt's padding; in XL it never does."""
    masked = read_config(path).get("use_attention_mask")
    _require(not masked, path, "use_attention_mask", masked, "and prompts are read with their padding")


def _check_vae(path: Path) -> dict[str, Any]:
    """The config of a VAE whose images have three channels and whose latents are described by numbers."""
    config = read_config(path)
    _check_class(path, config, "AutoencoderKL")
    for key in ("in_channels", "out_channels"):
        _require(config.get(key, 3) == 3, path, key, config.get(key), "and images have 3")
    scale, shift = config.get("scaling_factor", 0.18215), config.get("shift_factor")
    _require(_is_number(scale) and scale != 0, path, "scaling_factor", scale, "not a number other than 0")
    _require(shift is None or _is_number(shift), path, "shift_factor", shift, "not a number")
    channels = config.get("latent_channels", 4)
    for key in ("latents_mean", "latents_std"):
        found = config.get(key)
        numbers = isinstance(found, list) and len(found) == channels and all(map(_is_number, found))
        _require(found is None or numbers, path, key, found, f"not a number for each of {channels} channels")
    deviations = config.get("latents_std")
    _require(0 not in (deviations or ()), path, "latents_std", deviations, "and none may be 0")
    return config


def _text_width(path: Path) -> int:
    config = read_config(path)
    width, end = config.get("hidden_size"), config.get("eos_token_id", 0)
    other = config.get("transformers_weights")
    _require(other is None, path, "transformers_weights", other, "and only model.safetensors and its index are read")
    _require(isinstance(end, int), path, "eos_token_id", end, "not a token's number")
    _require(isinstance(width, int), path, "hidden_size", width, "not a number of channels")
    assert isinstance(width, int)
    return width


def _check_class(path: Path, config: dict[str, Any], wanted: str) -> None:
    found = config.get("_class_name", wanted)
    _require(found == wanted, path, "_class_name", found, f"not {wanted}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _require(holds: bool, path: Path, key: str, found: Any, why: str) -> None:
    if not holds:
        raise BadInputError(f"{path}: {key} is {str(found)[:80]}, {why}", HINT)
