"""Shards under each other's names: refused where images are named by their place, read where they are not."""

import numpy as np
import pytest

from fglfast.base.errors import BadInputError
from fglfast.shards.description import Description
from fglfast.shards.index import read_index
from fglfast.shards.keep import read_scores
from fglfast.shards.tar import Sample, encode_image, shard_name, write_shard

PIXELS = encode_image(np.zeros((4, 4, 3), np.uint8), "png")


def write(folder, *shards):
    """Shards of images of some numbers; the last digit is the label."""
    for place, numbers in enumerate(shards):
        write_shard(folder / shard_name(place), [Sample(f"{k:09d}", PIXELS, k % 2, {}) for k in numbers], "png")


def said(**facts):
    return Description(
        **{"plan": "ab", "class_names": ("a", "b"), "images": 5, "shards": 2, "image_size": 4, "model": "mini"} | facts
    )


def test_in_their_places_they_are_read(tmp_path):
    write(tmp_path, range(3), range(3, 5))
    assert read_index(tmp_path, said()).labels.tolist() == [0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("shards", "number", "key", "place"),
    [((range(3, 5), range(3)), 0, 3, 0), ((range(3), range(2)), 1, 0, 3), ((range(3), range(6, 8)), 1, 6, 3)],
)
def test_swapped_or_copied_they_are_refused(shards, number, key, place, tmp_path):
    write(tmp_path, *shards)
    words = f"train-00000{number}.tar: holds another shard: its first image is number {key}, not {place}"
    for read in (read_index, read_scores):
        with pytest.raises(BadInputError, match=words) as refused:
            read(tmp_path, said())
    assert f"fglfast verify {tmp_path} --repair" in str(refused.value.hint)


@pytest.mark.parametrize("facts", [{"model": ""}, {"format_version": 2}, {"format_version": 1}])
def test_other_tools_and_versions_may_name_images_otherwise(facts, tmp_path):
    write(tmp_path, range(3), range(2))
    assert len(read_index(tmp_path, said(**facts))) == 5
