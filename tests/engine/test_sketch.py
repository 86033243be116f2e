import numpy as np
from PIL import Image

from fglfast.sampler.schedule import Sampling


def test_images_of_each_prompt_in_turn_the_same_for_the_same_seed(engine):
    sampling = Sampling(steps=2, guidance_scale=2.0)
    images = engine.draw(["bag", "t-shirt, dark plain wide"], 3, sampling)
    assert len(images) == 6 and all(isinstance(image, Image.Image) and image.size == (32, 32) for image in images)
    again, other = engine.draw(["bag"], 3, sampling), engine.draw(["bag"], 3, sampling, seed=1)
    assert all(np.array_equal(one, two) for one, two in zip(images, again, strict=False))
    assert not np.array_equal(again[0], other[0]) and not np.array_equal(images[0], images[3])
