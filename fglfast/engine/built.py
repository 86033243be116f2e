"""Whether an engine is built already, told without loading a network or compiling anything."""

from pathlib import Path

from fglfast.engine.build import keys_of
from fglfast.engine.choice import choice_file, name_of, remembered
from fglfast.engine.manifest import FILE
from fglfast.engine.recipe import Recipe
from fglfast.generator.blocks import load_blocks


def is_built(recipe: Recipe, model: Path, engines: Path) -> bool:
    """Whether `build_engine` would find all that it opens: the engine of each block, chosen before if it is "auto".

    Args:
        recipe: as for `build_engine`.
        model: likewise; its weights must be there.
        engines: likewise.

    Raises:
        MissingExtraError: the backend is not installed.
        UsageError: it does not compute at that precision.
    """
    for block in load_blocks(model).folders(model):
        keys = {name_of(key): key for key in keys_of(recipe, block)}
        name = next(iter(keys))
        if len(keys) > 1:
            if not (path := choice_file(list(keys.values()), engines)).exists():
                return False
            seconds = remembered(path, set(keys))
            name = min(seconds, key=seconds.__getitem__)
        build = keys[name].build
        recipe = recipe.model_copy(update={"backend": build.backend, "precision": build.precision})
        if not (engines / keys[name].digest() / FILE).is_file():
            return False
    return True
