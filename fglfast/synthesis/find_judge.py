"""The judge that a user names."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fglfast.base.errors import BadInputError
from fglfast.engine.build import LazyEngine, build_engine
from fglfast.engine.family import recipe_for
from fglfast.generator.configs import read_config
from fglfast.generator.kinds import INDEX
from fglfast.generator.parts import BUNDLED
from fglfast.generator.text import is_hub_id
from fglfast.synthesis.judge import ADVICE, ClassifierJudge, Judge, TextJudge
from fglfast.synthesis.self_judge import GeneratorJudge, LabelFlowJudge

DRAWING, LABEL_FLOW = "generator", "label-flow"  # the data set's own generator, asked in one way or the other


def find_judge(name: str, class_names: Sequence[str], drawing: LazyEngine) -> Judge:
    """The judge of a name: the generator that draws, another one, a classifier, or a model of CLIP's kind.

    A name is `generator`, `label-flow`, a folder, or an id on the hub. `drawing` is the data set's own generator, which
    is not opened before it is asked.

    Raises:
        BadInputError: it cannot be had, is of another kind, or knows not all classes.
    """
    if name == LABEL_FLOW:
        return LabelFlowJudge(drawing.recipe.model_folder(), class_names)
    if name == DRAWING:
        return GeneratorJudge(drawing, class_names)
    folder = Path(name)
    if name in BUNDLED or (folder / INDEX).exists():
        recipe = recipe_for(name)
        opener = partial(build_engine, recipe, recipe.model_folder(), drawing.engines)
        return GeneratorJudge(LazyEngine(recipe, drawing.engines, opener), class_names)
    if (folder / "preprocessor_config.json").exists() and _classifies(folder):
        return ClassifierJudge(folder, class_names)
    if not folder.is_dir() and not is_hub_id(name):
        raise BadInputError(f"judge: {name}: no such folder", ADVICE)
    return TextJudge(name, class_names)


def _classifies(folder: Path) -> bool:
    kinds = read_config(folder / "config.json").get("architectures")
    return isinstance(kinds, list) and any(str(kind).endswith("ForImageClassification") for kind in kinds)
