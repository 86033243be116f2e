"""What a data set would take, found without fetching weights, building an engine or drawing anything."""

from pathlib import Path
from typing import Any

from fglfast.base.console import note
from fglfast.base.files import usable_folder
from fglfast.engine.backends import chosen
from fglfast.engine.build import build_engine
from fglfast.engine.built import is_built
from fglfast.engine.recipe import Recipe
from fglfast.generator.kinds import networks
from fglfast.generator.load import model_fingerprint, read_shapes
from fglfast.generator.parts import part
from fglfast.generator.weights import weight_files
from fglfast.payload.merge import Merged
from fglfast.synthesis.conditioning import check_rows
from fglfast.synthesis.settings import SynthesisSettings, plan_of
from fglfast.synthesis.synthesize import check_work, estimate, foresee


def foreseen(
    recipe: Recipe, merged: Merged, settings: SynthesisSettings, out: Path, engines: Path, world_size: int = 1
) -> dict[str, Any]:
    """What `synthesize` would do: see `foresee`; `seconds` is None where the engine is not built yet.

    Of a model of the hub, configs and tokenizers are fetched. Where its weights are not here, neither the payloads'
    text encoder nor the folder's plan is compared with it, and `plan` is None.

    Raises:
        UsageError: what `synthesize` would refuse.
        BadInputError: likewise.
        MissingExtraError: likewise.
    """
    chosen(recipe.backend, recipe.precision)
    model = recipe.model_folder(need="configs")
    if recipe.lora or not all(weight_files(part(model, name)) for name in networks(model, "all")):
        usable_folder(out)
        check_rows(merged, model, read_shapes(model, recipe.image_size))
        lacks = "its adapter is not added" if recipe.lora else "its weights are not here"
        note(f"{recipe.model}: {lacks}, so whether it fits the payloads is not known yet")
        plan = plan_of("", recipe.image_size, merged, settings)
        return foresee(plan, model, recipe.image_size, settings, out) | {"plan": None}
    check_work(merged, settings, out, model, recipe.image_size)
    if is_built(recipe, model, engines):
        return estimate(build_engine(recipe, model, engines), merged, settings, out, world_size)
    plan = plan_of(model_fingerprint(model), recipe.image_size, merged, settings)
    return foresee(plan, model, recipe.image_size, settings, out)
