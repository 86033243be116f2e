"""Free captions: of the image alone, various, and not what the public prompts say."""

from functools import partial

import numpy as np

from benchmarks.free_captions import free_caption, free_captions
from fglfast.client.captions import caption_all
from fglfast.images.attributes import descriptions
from fglfast.images.dataset import read_dataset


def test_captions_are_various_of_one_image_each_and_no_public_ones():
    images = read_dataset("fashion:private").select(range(300))
    look = partial(free_captions, 32)
    captions = caption_all(images, look)
    assert len(set(captions)) > 150 and not set(captions) & set(descriptions())
    assert captions[7:9] == caption_all(images.select([7, 8]), look)


def test_words_are_those_of_what_is_seen():
    """A black bar, tall, in the upper half; the order of the words is the image's own."""
    words = set()
    for shade in range(30, 70):
        image = np.zeros((32, 32, 3), np.uint8)
        image[2:16, 12:18] = shade
        words |= set(free_caption(image).replace(",", "").split())
    assert {"black", "narrow", "top"} <= words and not words & {"light", "wide", "low", "square"}
    assert free_caption(np.full((32, 32, 3), 255, np.uint8))  # nothing stands out
