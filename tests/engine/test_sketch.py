import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from fglfast.engine.build import build_engine
from fglfast.engine.recipe import Recipe
from fglfast.engine.sketch import negative_embedding
from fglfast.generator.kinds import INDEX
from fglfast.generator.load import read_shapes
from fglfast.sampler.schedule import Sampling


def test_images_of_each_prompt_in_turn_the_same_for_the_same_seed(engine):
    sampling = Sampling(steps=2, guidance_scale=2.0)
    images = engine.draw(["bag", "t-shirt, dark plain wide"], 3, sampling)
    assert len(images) == 6 and all(isinstance(image, Image.Image) and image.size == (32, 32) for image in images)
    again, other = engine.draw(["bag"], 3, sampling), engine.draw(["bag"], 3, sampling, seed=1)
    assert all(np.array_equal(one, two) for one, two in zip(images, again, strict=False))
    assert not np.array_equal(again[0], other[0]) and not np.array_equal(images[0], images[3])
    assert all(np.array_equal(one, two) for one, two in zip(engine.draw("bag", 3, sampling), again, strict=True))
    assert engine.draw([], 3, sampling) == engine.draw(["bag"], 0, sampling) == []


def test_what_a_solver_adds_on_its_way_is_each_images_own(engine, monkeypatch):
    asked = []

    def seen(denoise, noise, text, negative, schedule, fresh):
        asked.extend([noise, fresh(1), fresh(2)])
        return noise

    monkeypatch.setattr("fglfast.engine.sketch.sample", seen)
    engine.draw(["bag"], 2, Sampling(steps=2))
    rows = [row for noise in asked for row in noise]
    assert not any(torch.equal(one, two) for one, two in itertools.combinations(rows, 2))


def test_an_empty_prompt_of_an_xl_is_zeros_where_its_index_says_nothing(shallow, engine, tmp_path):
    folder = shutil.copytree(shallow("sdxl"), tmp_path / "model")
    index = json.loads((folder / INDEX).read_text())
    del index["force_zeros_for_empty_prompt"]
    (folder / INDEX).write_text(json.dumps(index))
    shapes = read_shapes(folder, 64)
    negative = negative_embedding(engine.networks, shapes, folder, "")
    assert negative.shape == (shapes.text_length, shapes.text_width) and not negative.any()


def test_an_activation_that_clients_have_not_is_said_before_anything_is_built(random_mini, tmp_path, monkeypatch):
    folder = shutil.copytree(random_mini, tmp_path / "model")
    path = folder / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_act": "gelu_new"}))
    told = []
    monkeypatch.setattr("fglfast.engine.build.note", told.append)
    monkeypatch.setattr("fglfast.engine.build.keys_of", lambda *_: pytest.fail("built"))
    with pytest.raises(pytest.fail.Exception):
        build_engine(Recipe(image_size=32), folder, tmp_path / "engines")
    assert len(told) == 1 and str(path) in told[0] and "gelu_new" in told[0] and "--send tokens" in told[0]
