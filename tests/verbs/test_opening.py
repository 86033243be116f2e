"""The options of an engine: on every verb that opens one, and what they make of a recipe."""

import pytest
import typer
from fake_hub import NAME

from fglfast.base.errors import UsageError
from fglfast.engine.recipe import find_recipe
from fglfast.verbs.app import app
from fglfast.verbs.opening import asked_recipe

VERBS = typer.main.get_command(app).commands
OPEN = ("build-engine", "synthesize", "verify", "forget", "probe", "tune", "bench", "distill", "place-steps", "demo")
OTHER_NAME = {"tune": "--drawn-size", "demo": "--drawn-size"}  # whose --image-size is that of the global model


@pytest.mark.parametrize("verb", OPEN)
def test_every_verb_that_opens_an_engine_takes_precision_and_image_size(verb):
    options = {option for parameter in VERBS[verb].params for option in parameter.opts}
    assert {"--recipe", "--precision", OTHER_NAME.get(verb, "--image-size")} <= options


def test_no_other_verb_takes_a_recipe():
    taking = {verb for verb, command in VERBS.items() if "recipe" in {parameter.name for parameter in command.params}}
    assert taking - {"tune-steps"} == {*OPEN, "kit", "run"}, "of a recipe's model, or an experiment's"


def test_what_is_asked_for_takes_the_place_of_the_recipes():
    asked = asked_recipe("sd15", None, "torch", "bfloat16", 768, "8")
    changes = {"backend": "torch", "precision": "bfloat16", "image_size": 768, "unet_batch": 8}
    assert asked == find_recipe("sd15").model_copy(update=changes)
    assert asked_recipe(None) == find_recipe("mini")
    assert asked_recipe("sd15", "some/other") == find_recipe("sd15").of_model("some/other")


def test_a_model_without_a_recipe_is_not_minis_32_pixels(hub, shallow, random_mini):
    assert asked_recipe(None, str(shallow("sdxl"))).image_size == 64
    assert asked_recipe(None, NAME).model == NAME and hub.weights == []
    assert asked_recipe(None, str(random_mini), image_size=64).image_size == 64


@pytest.mark.parametrize("changes", [{"image_size": 12}, {"precision": "float12"}, {"batch_size": "1"}])
def test_what_cannot_be_is_a_usage_error(changes):
    with pytest.raises(UsageError):
        asked_recipe("sd15", **changes)
