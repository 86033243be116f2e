"""A model that is named without a recipe gets that of its family, at its own size."""

import json
import shutil

import pytest

from fglfast.base.errors import UsageError
from fglfast.engine.build import build_engine
from fglfast.engine.family import recipe_for
from fglfast.engine.recipe import find_recipe, shipped_recipes
from fglfast.generator.families import UNETS, random_model
from fglfast.generator.kinds import INDEX
from fglfast.sampler.schedule import Schedule


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Model folders with the configs of the full families, and no weights to speak of."""
    root = tmp_path_factory.mktemp("families")
    for family in UNETS:
        folder = random_model(family, root / family, narrow=True)
        config = folder / "unet" / "config.json"
        change(config, **{key: UNETS[family][key] for key in ("cross_attention_dim", "sample_size")})
        texts = {"sd15": (768,), "sd21-base": (1024,), "sdxl": (768, 1280)}[family]
        for name, width in zip(("text_encoder", "text_encoder_2"), texts, strict=False):
            change(folder / name / "config.json", hidden_size=width)
    return root


def change(path, **keys):
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def scheduled(folder, **keys):
    change(folder / "scheduler" / "scheduler_config.json", **keys)
    if "_class_name" in keys:
        change(folder / INDEX, scheduler=["diffusers", keys["_class_name"]])


CASES = {
    "sd15": ("sd15", {}, {}, ("sd15", 512, 25, 2.0)),
    "sd21-base": ("sd21-base", {}, {}, ("sd21-base", 512, 25, 2.0)),
    "sd21 of 768 pixels": (
        "sd21-base",
        {"prediction_type": "v_prediction"},
        {"sample_size": 96},
        ("sd21", 768, 25, 2.0),
    ),
    "sdxl": ("sdxl", {}, {}, ("sdxl", 1024, 25, 2.0)),
    "sdxl of 768 pixels": ("sdxl", {}, {"sample_size": 96}, ("sdxl", 768, 25, 2.0)),
    "SDXL Turbo": (
        "sdxl",
        {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"},
        {"sample_size": 64},
        ("sdxl", 512, 4, 1.0),
    ),
    "SD Turbo": (
        "sd21-base",
        {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"},
        {},
        ("sd21-base", 512, 4, 1.0),
    ),
    "zero terminal SNR": (
        "sdxl",
        {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
        {},
        ("sdxl", 1024, 25, 2.0),
    ),
    "LCM": ("sd15", {"_class_name": "LCMScheduler"}, {}, ("sd15", 512, 4, 1.0)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_configs_tell_the_family(case, folders, tmp_path, monkeypatch):
    family, scheduler, unet, (name, side, steps, guidance) = CASES[case]
    folder = tmp_path / "model"
    shutil.copytree(folders / family, folder)
    scheduled(folder, **scheduler)
    change(folder / "unet" / "config.json", **unet)
    told = []
    monkeypatch.setattr("fglfast.engine.family.note", told.append)
    recipe = recipe_for(str(folder))
    assert (recipe.model, recipe.image_size) == (str(folder), side)
    assert (recipe.sampling.steps, recipe.sampling.guidance_scale) == (steps, guidance)
    same = {"model": recipe.model, "mirror": None, "image_size": side, "sampling": recipe.sampling}
    assert recipe == find_recipe(name).model_copy(update=same)
    assert len(told) == 1 and f"recipe {name}," in told[0] and str(side) in told[0]


OWN_CLOCKS = {
    "EDM": {"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_data": 0.5},
    "EDM's Euler": {"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"},
    "continuous": {
        "_class_name": "EulerDiscreteScheduler",
        "timestep_type": "continuous",
        "prediction_type": "v_prediction",
    },
}


@pytest.mark.parametrize("case", OWN_CLOCKS)
def test_a_model_that_is_told_the_noise_itself_keeps_its_scheduler(case, folders, tmp_path):
    folder = shutil.copytree(folders / "sdxl", tmp_path / "model")
    scheduled(folder, **OWN_CLOCKS[case])
    recipe, usual = recipe_for(str(folder)), find_recipe("sdxl").sampling
    assert recipe.sampling == usual.model_copy(update={"scheduler": "model"}) and usual.scheduler != "model"
    assert Schedule.of_model(folder, recipe.sampling).scheduler == OWN_CLOCKS[case]["_class_name"]
    with pytest.raises(UsageError, match=rf"{usual.scheduler[:3]}.* {OWN_CLOCKS[case]['_class_name']}") as refused:
        build_engine(recipe.model_copy(update={"sampling": usual}), folder, tmp_path / "engines")
    assert 'scheduler = "model"' in refused.value.hint and not (tmp_path / "engines").exists()


def test_a_small_flow_model_of_ones_own_is_minis(random_mini):
    recipe = recipe_for(str(random_mini))
    assert recipe == find_recipe("mini").model_copy(update={"model": str(random_mini)})


def test_a_model_that_a_shipped_recipe_names_gets_that_one():
    for name in shipped_recipes():
        recipe = find_recipe(name)
        if name != "mini-int8":  # which is mini's second
            assert recipe_for(recipe.model) == recipe


def test_a_model_takes_no_mirror_of_the_recipes_own():
    recipe = find_recipe("sd15").of_model("some/other")
    assert (recipe.model, recipe.revision, recipe.mirror) == ("some/other", None, None)


def test_of_a_hub_id_nothing_but_configs_is_fetched(folders, monkeypatch, tmp_path):
    fetched = []

    def download(repository, allow_patterns, **_):
        fetched.extend(allow_patterns)
        return str(folders / "sdxl")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert recipe_for("someone/something").image_size == 1024
    assert fetched[0] == INDEX and not any(pattern.endswith(".safetensors") for pattern in fetched)
