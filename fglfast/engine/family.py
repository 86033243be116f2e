"""The recipe of a model that is named without one: that of its family, recognised by the model's configs alone."""

from pathlib import Path
from typing import Any

from fglfast.base.console import note
from fglfast.engine.recipe import Recipe, find_recipe, shipped_recipes
from fglfast.generator.configs import read_config
from fglfast.generator.kinds import XL, pipeline_name
from fglfast.generator.parts import part
from fglfast.generator.scheduler import own_clock, scheduler_config
from fglfast.generator.text import native_image_size, resolve_model

SD2_TEXT = 1024  # channels of Stable Diffusion 2's text embeddings; 1.x has 768
# Solvers of models that are made for a few unguided steps.
CONSISTENCY, TURBO = ("LCMScheduler", "TCDScheduler"), ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
FEW: dict[str, Any] = {"scheduler": "model", "steps": 4, "guidance_scale": 1.0}


def recipe_for(model: str) -> Recipe:
    """The recipe of a model: the shipped one that names it, or else its family's, at the size it was trained at.

    Args:
        model: as in a recipe; of a hub id, only the configs are fetched.

    Raises:
        BadInputError: it cannot be had or used, or its configs name no usual size of image.
    """
    shipped = {find_recipe(name).model: name for name in shipped_recipes()}  # of mini's two, the plain one comes last
    if model in shipped:
        name, few = shipped[model], False
        recipe = find_recipe(name)
    else:
        folder = resolve_model(model, need="configs")
        name, few = family_of(folder), takes_few_steps(folder)
        recipe = find_recipe(name).of_model(model)
        sampling = recipe.sampling.model_copy(update=_own_sampling(folder, few))
        recipe = recipe.model_copy(update={"image_size": native_image_size(folder), "sampling": sampling})
    how = f"{recipe.sampling.steps} steps{', as its scheduler is made for few' if few else ''}"
    note(f"{model}: drawn by recipe {name}, {recipe.image_size} pixels, {how}; --recipe names another")
    return recipe


def _own_sampling(folder: Path, few: bool) -> dict[str, Any]:
    """What a model's scheduler asks of how it is sampled, and its family's recipe does not know."""
    if few:
        return FEW
    return {"scheduler": "model", "spacing": "model"} if own_clock(scheduler_config(folder)) else {}


def family_of(folder: Path) -> str:
    """Name of the shipped recipe that a model folder is nearest to."""
    scheduler = scheduler_config(folder)
    if scheduler.get("prediction_type") == "flow_prediction" or str(scheduler.get("_class_name")).startswith("Flow"):
        return "mini"
    if pipeline_name(folder) == XL:
        return "sdxl"
    if read_config(part(folder, "unet") / "config.json").get("cross_attention_dim") != SD2_TEXT:
        return "sd15"
    return "sd21" if scheduler.get("prediction_type") == "v_prediction" else "sd21-base"


def takes_few_steps(folder: Path) -> bool:
    """Whether a model's scheduler is one of consistency models, or set as those of the Turbo models are.

    Models of zero terminal SNR have the same spacing, and take as many steps as others.
    """
    config = scheduler_config(folder)
    name, trailing = config.get("_class_name"), config.get("timestep_spacing") == "trailing"
    noise = config.get("prediction_type", "epsilon") == "epsilon" and not config.get("rescale_betas_zero_snr")
    return name in CONSISTENCY or (name in TURBO and trailing and noise)
