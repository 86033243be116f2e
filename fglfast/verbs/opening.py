"""What verbs open by their options: the recipe that is asked for, its model, its engine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fglfast.base.errors import UsageError


def asked_recipe(
    name: str | None,
    model: str | None = None,
    backend: str | None = None,
    precision: str | None = None,
    image_size: int | None = None,
    batch_size: str | None = None,
) -> Any:
    """The recipe that a command line asks for, with its changes: `mini`, or that of the model's family, unless named.

    The batch size is the UNet's; "auto" is for `open_engine`.

    Raises:
        UsageError: a value is out of range.
        BadInputError: there is no such recipe or model.
    """
    from fglfast.engine.family import recipe_for
    from fglfast.engine.recipe import find_recipe

    if model and name is None:
        recipe = recipe_for(model)
    else:
        recipe = find_recipe(name or "mini")
        recipe = recipe.of_model(model) if model else recipe
    return recipe.changed(backend=backend, precision=precision, image_size=image_size, unet_batch=_rows(batch_size))


def _rows(batch_size: str | None) -> int | None:
    if batch_size is None or batch_size == "auto":
        return None
    if not batch_size.isdecimal() or not 2 <= int(batch_size) <= 4096:
        raise UsageError(f"--batch-size {batch_size} is neither auto nor a number from 2 to 4096", "for example 64")
    return int(batch_size)


def open_engine(
    recipe: Any,
    engines: Path,
    batch_size: str | None = None,
    random_weights: bool = False,
    check: Callable[[Path, int], None] | None = None,
) -> Any:
    """The compiled engine of a recipe.

    `check` is given the model's folder and the image size before anything is compiled: what it refuses is refused at
    once.
    """
    from fglfast.engine.backends import chosen
    from fglfast.engine.build import build_engine as build

    chosen(recipe.backend, recipe.precision)  # refused before a model is fetched
    folder = find_model(recipe, engines, random_weights)
    if check:
        check(folder, recipe.image_size)
    if batch_size == "auto":
        from fglfast.engine.batch_search import search_batches

        recipe = search_batches(recipe, folder, engines)
    return build(recipe, folder, engines)


def open_judge(name: str | None, class_names: tuple[str, ...], drawing: Any) -> Any:
    """The judge that a command line names, or None; `drawing` is the data set's own generator, a `LazyEngine`."""
    if name is None:
        return None
    from fglfast.synthesis.find_judge import find_judge

    return find_judge(name, class_names, drawing)


def judge_is_here(name: str | None, model: str) -> bool:
    """Whether a judge can be opened without fetching anything; `model` is the data set's own generator."""
    from fglfast.generator.parts import BUNDLED
    from fglfast.synthesis.find_judge import DRAWING, LABEL_FLOW

    place = model if name in (DRAWING, LABEL_FLOW) else name or ""
    return place in BUNDLED or Path(place).is_dir()


def find_model(recipe: Any, engines: Path, random_weights: bool) -> Path:
    """The model folder of a recipe, or a folder of the same architecture with random weights."""
    if not random_weights:
        folder: Path = recipe.model_folder()
        return folder
    if recipe.family is None:
        raise UsageError(
            "this recipe names no model family, which random weights need", "use recipe sd15, sd21-base, sd21 or sdxl"
        )
    from fglfast.generator.families import random_model

    return random_model(recipe.family, engines / f"random-{recipe.family}")
