"""A data set as Parquet files: read back by this program and by stock `datasets`."""

import numpy as np
import pytest

from fglfast.base.errors import BadInputError
from fglfast.images.dataset import read_dataset
from fglfast.shards.parquet_export import export_parquet
from fglfast.shards.tar import Sample, encode_image, shard_name, write_shard

CLASSES = ("Zoo", "Animals & Nature", "a/b")
EACH = 300  # images a shard, more than are written together


def write(folder, number, shift=0):
    def sample(place):
        pixels = np.full((4, 4, 3), (place + shift) % 256, np.uint8)
        return Sample(f"{number * EACH + place:09d}", encode_image(pixels, "png"), place % 3, {})

    write_shard(folder / shard_name(number), map(sample, range(EACH)), "png")


@pytest.fixture
def synthetic(tmp_path):
    for number in range(2):
        write(tmp_path, number)
    return tmp_path


def test_images_and_the_names_of_their_classes_come_back(synthetic):
    folder = export_parquet(synthetic, CLASSES, 2)
    assert sorted(path.name for path in folder.iterdir()) == [f"train-{k:05d}-of-00002.parquet" for k in range(2)]
    found = read_dataset(str(folder))
    assert found.class_names == CLASSES and found.labels.tolist() == [k % 3 for k in range(EACH)] * 2
    assert [found.image(row).getpixel((0, 0))[0] for row in (0, 255, 256, EACH)] == [0, 255, 0, 0]


def test_stock_datasets_gives_named_labels_without_options(synthetic, tmp_path_factory):
    datasets = pytest.importorskip("datasets", reason="needs the datasets package")
    folder = export_parquet(synthetic, CLASSES, 2)
    found = datasets.load_dataset(str(folder), cache_dir=str(tmp_path_factory.mktemp("cache")))
    assert list(found) == ["train"] and found["train"].features["label"].names == list(CLASSES)
    assert found["train"][7]["image"].getpixel((0, 0)) == (7, 7, 7) and found["train"][7]["label"] == 1


def test_only_the_file_of_a_shard_that_changed_is_written_anew(synthetic):
    folder = export_parquet(synthetic, CLASSES, 2)
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}
    write(synthetic, 1, shift=5)
    export_parquet(synthetic, CLASSES, 2)
    after = {path.name: path.stat().st_ino for path in folder.iterdir()}
    assert [name for name in before if before[name] != after[name]] == ["train-00001-of-00002.parquet"]
    assert read_dataset(str(folder)).image(EACH).getpixel((0, 0)) == (5, 5, 5)


def test_files_of_a_longer_data_set_go(synthetic):
    export_parquet(synthetic, CLASSES, 2)
    folder = export_parquet(synthetic, CLASSES, 1)
    assert len(read_dataset(str(folder))) == EACH


def test_a_label_of_no_class_is_refused(synthetic):
    with pytest.raises(BadInputError, match="label 2 of 2 classes"):
        export_parquet(synthetic, CLASSES[:2], 2)


def test_a_link_out_of_the_data_set_is_refused(synthetic, tmp_path_factory):
    (synthetic / "parquet").symlink_to(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(BadInputError, match="link"):
        export_parquet(synthetic, CLASSES, 2)


def test_what_was_not_made_here_stays(synthetic, capsys):
    folder = export_parquet(synthetic, CLASSES, 2)
    for name in ("patients.parquet", "train-00009-of-00010.parquet"):
        (folder / name).write_bytes(b"precious")
    export_parquet(synthetic, CLASSES, 1)
    assert (folder / "patients.parquet").read_bytes() == (folder / "train-00009-of-00010.parquet").read_bytes()
    assert "not made of this data set: patients.parquet, train-00009" in " ".join(capsys.readouterr().err.split())
    assert not (folder / "train-00001-of-00002.parquet").exists()
