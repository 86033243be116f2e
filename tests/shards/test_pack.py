"""Real images as shards: what training reads of them is what they are."""

import numpy as np

from fglfast.images.dataset import read_dataset
from fglfast.shards import pack as packing
from fglfast.shards.description import read_description
from fglfast.shards.index import SyntheticImages, read_index
from fglfast.shards.pack import pack


def test_training_reads_the_same_pixels_and_labels(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD_SIZE", 8)
    dataset = read_dataset("fashion:test").select(range(20))
    pack(dataset, 28, tmp_path / "shards")
    description = read_description(tmp_path / "shards")
    assert (description.images, description.shards, description.class_names) == (20, 3, dataset.class_names)
    index = read_index(tmp_path / "shards", description)
    assert np.array_equal(index.labels, dataset.labels)
    images = SyntheticImages(index, 28, 28)
    for row in (0, 9, 19):
        assert np.array_equal(images[row].permute(1, 2, 0).numpy(), dataset.pixels(row, 28))


def test_a_whole_folder_is_left_alone_and_a_broken_off_one_is_made_anew(tmp_path):
    dataset = read_dataset("fashion:test").select(range(6))
    pack(dataset, 28, tmp_path)
    first = (tmp_path / "train-000000.tar").read_bytes(), (tmp_path / "dataset.json").read_text()
    (tmp_path / "train-000000.tar").write_bytes(b"cut")
    pack(dataset, 28, tmp_path)
    assert (tmp_path / "train-000000.tar").read_bytes() == b"cut"
    (tmp_path / "dataset.json").unlink()
    pack(dataset, 28, tmp_path)
    assert ((tmp_path / "train-000000.tar").read_bytes(), (tmp_path / "dataset.json").read_text()) == first
