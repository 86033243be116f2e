"""Other images, or another generator, under the paths that a folder's results came from."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from fglfast.base.errors import BadInputError
from fglfast.engine.recipe import find_recipe
from fglfast.images.dataset import read_dataset
from fglfast.pipeline.demo import run_demo
from fglfast.pipeline.settings import Demo
from fglfast.pipeline.sources import FILE, check_images, claim_sources


@pytest.fixture
def recipe(random_mini, tmp_path):
    """A recipe whose model lies beside it."""
    shutil.copytree(random_mini, tmp_path / "generator")
    path = tmp_path / "own.toml"
    path.write_text('model = "./generator"\nimage_size = 32\n[sampling]\nsteps = 2\n')
    return path


def photos(folder, *names):
    """A data set of grey images, named CLASS/FILE."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(folder / name)
    return read_dataset(str(folder))


def refused(words, folder, *asked, **images):
    before = (folder / FILE).read_bytes()
    with pytest.raises(BadInputError, match=rf"results of other images or of another generator \({words}\)"):
        claim_sources(folder, *asked, **images)
    assert (folder / FILE).read_bytes() == before


def test_a_generator_that_changed_under_its_path_is_noticed(recipe, tmp_path):
    run, asked = tmp_path / "run", str(recipe)
    (run / "seed0").mkdir(parents=True)
    claim_sources(run, asked)
    claim_sources(run, asked)
    recipe.write_text(recipe.read_text().replace("steps = 2", "steps = 3"))
    refused("sampling.steps 2 there, 3 here", run, asked)
    recipe.write_text('backend = "torch"\n' + recipe.read_text().replace("steps = 3", "steps = 2"))
    claim_sources(run, asked)  # by which backend is no other generator
    weights = next((find_recipe(asked).model_folder() / "unet").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    refused("another generator", run, asked)
    content[-1] ^= 1
    weights.write_bytes(content)
    prompts = find_recipe(asked).model_folder() / "prompts.json"
    prompts.write_text(prompts.read_text().replace('"negative": ""', '"negative": "grey"'))
    refused("another negative prompt", run, asked)


def test_images_that_come_go_change_or_change_class_are_noticed_and_other_uses_may_come_later(recipe, tmp_path):
    run, asked = tmp_path / "run", str(recipe)
    (run / "seed0").mkdir(parents=True)
    private = photos(tmp_path / "private", "ant/1.png", "ant/2.png", "bee/3.png")
    claim_sources(run, asked, private=private)
    claim_sources(run, asked, test=private)
    assert json.loads((run / FILE).read_text()).keys() >= {"set_of_private_images", "set_of_test_images"}
    check_images(run, private=private.select([2, 0, 1]), unknown=private)  # in whatever order
    check_images(run, private=private.named(("cow", "bee", "ant")))
    (tmp_path / "private/ant/2.png").rename(tmp_path / "private/bee/2.png")
    refused("another set of private images", run, asked, private=read_dataset(str(tmp_path / "private")))
    (tmp_path / "private/bee/2.png").rename(tmp_path / "private/ant/2.png")
    claim_sources(run, asked, private=read_dataset(str(tmp_path / "private")))
    kept = (tmp_path / "private/ant/2.png").read_bytes()
    Image.fromarray(np.full((8, 8, 3), 98, np.uint8)).save(tmp_path / "private/ant/2.png")  # of the same size
    refused("another set of private images", run, asked, private=read_dataset(str(tmp_path / "private")))
    (tmp_path / "private/ant/2.png").write_bytes(kept)
    more = photos(tmp_path / "private", "ant/4.png")
    refused("another set of private images", run, asked, private=more, test=private)
    with pytest.raises(BadInputError, match="another set of private images") as raised:
        check_images(run, private=more)
    assert "put back" in raised.value.hint
    check_images(tmp_path, private=more)  # of a folder that notes nothing, nothing is known


def test_a_demo_whose_images_changed_begins_nothing(recipe, tmp_path):
    photos(tmp_path / "private", "ant/1.png", "bee/2.png")
    out, settings = tmp_path / "out", {"recipe": str(recipe), "private": str(tmp_path / "private")}
    asked = Demo(**settings, test=settings["private"], clients=1)
    claim_sources(out, asked.recipe, private=read_dataset(asked.private), test=read_dataset(asked.test))
    photos(tmp_path / "private", "ant/4.png")  # before anything came of them
    claim_sources(out, asked.recipe, private=read_dataset(asked.private), test=read_dataset(asked.test))
    (out / "engines").mkdir()
    photos(tmp_path / "private", "bee/3.png")
    with pytest.raises(BadInputError, match="another set of private images; another set of test images"):
        run_demo(asked, out)
    assert not (out / "clients").exists()
