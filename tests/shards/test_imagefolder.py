"""A data set as others open it: unpacked into class folders, and by stock `datasets`. Nothing is drawn."""

import shutil

import numpy as np
import pytest
import yaml

from fglfast.base.errors import BadInputError
from fglfast.images.dataset import read_dataset
from fglfast.shards.imagefolder import export_imagefolder
from fglfast.shards.parquet_export import export_parquet
from fglfast.shards.tar import Sample, encode_image, shard_name, write_shard
from fglfast.synthesis.drawn import Drawn
from fglfast.synthesis.folder import begin

CLASSES = ("Zoo", "Animals & Nature", "a/b", ".net")  # sorted folders have another order
IMAGES, SHARDS = 12, 2


@pytest.fixture
def synthetic(tmp_path):
    facts = {"class_names": CLASSES, "images": IMAGES, "images_per_class": 3, "shards": SHARDS, "image_size": 8}
    facts |= {"plan": "ab" * 32, "weights": "cd" * 32, "model": "m", "clients": ("ann",), "payloads": ("ef" * 32,)}
    begin(tmp_path, Drawn(**facts))
    for number in range(SHARDS):
        write_shard(tmp_path / shard_name(number), samples(number), "png")
    return tmp_path


def samples(number):
    """Image k is of class k % 4 and of brightness 10 k."""
    for index in range(number * 6, number * 6 + 6):
        facts = {"class": index % 4, "row": str(index)} | ({"redraw": 1} if index in {1, 9} else {})
        pixels = np.full((8, 8, 3), index * 10, np.uint8)
        yield Sample(f"{index:09d}", encode_image(pixels, "png"), index % 4, facts)


def test_class_names_and_their_order_come_back(synthetic, capsys):
    made = export_imagefolder(synthetic, CLASSES, SHARDS)
    assert {"Zoo", "Animals & Nature"} < {path.name for path in made.iterdir()}
    assert "cannot be folder names: 2" in capsys.readouterr().err
    found = read_dataset(str(made))
    assert found.class_names == CLASSES and found.counts().tolist() == [3, 3, 3, 3]
    bright = {found.image(row).getpixel((0, 0))[0]: label for row, label in enumerate(found.labels.tolist())}
    assert bright == {index * 10: index % 4 for index in range(IMAGES)}
    assert export_imagefolder(synthetic, CLASSES, SHARDS) == made  # again: nothing changes
    assert len(read_dataset(str(made))) == IMAGES


def test_files_of_other_bytes_are_written_anew_and_others_are_said(synthetic, capsys):
    made = export_imagefolder(synthetic, CLASSES, SHARDS)
    first, second, *_ = sorted((made / "Zoo").iterdir())
    image, kept = first.read_bytes(), second.stat().st_ino
    first.write_bytes(image[:-1] + b"x")
    assert "left as they are" not in capsys.readouterr().err
    (made / "Zoo" / "mine.png").write_bytes(image)
    export_imagefolder(synthetic, CLASSES, SHARDS)
    assert first.read_bytes() == image and second.stat().st_ino == kept and (made / "Zoo" / "mine.png").exists()
    assert "that hold no image of this data set are left as they are: 1 in Zoo" in capsys.readouterr().err


@pytest.mark.parametrize("export", [export_imagefolder, export_parquet])
def test_a_shard_under_anothers_name_is_refused(export, synthetic):
    shutil.copy(synthetic / shard_name(0), synthetic / shard_name(1))
    with pytest.raises(BadInputError, match=r"000001\.tar: holds another shard: its first image is number 0") as said:
        export(synthetic, CLASSES, SHARDS)
    assert f"fglfast verify {synthetic} --repair" in str(said.value.hint)
    assert not (synthetic / "imagefolder").exists() and not (synthetic / "parquet").exists()


def test_classes_in_the_order_of_their_folders_need_no_labels_file(synthetic):
    made = export_imagefolder(synthetic, ("a", "b & c", "d", "e"), SHARDS)
    assert sorted(path.name for path in made.iterdir()) == ["a", "b & c", "d", "e"]


def test_a_folder_of_no_class_is_refused(synthetic):
    (synthetic / "imagefolder" / "0001 Animals _ Nature").mkdir(parents=True)
    with pytest.raises(BadInputError, match="0001 Animals _ Nature"):
        export_imagefolder(synthetic, CLASSES, SHARDS)


def test_stock_datasets_loads_it(synthetic, tmp_path_factory):
    datasets = pytest.importorskip("datasets", reason="needs the datasets package")
    export_imagefolder(synthetic, CLASSES, SHARDS)
    cache = str(tmp_path_factory.mktemp("cache"))
    found = datasets.load_dataset(str(synthetic), cache_dir=cache)
    assert list(found) == ["train"] and len(found["train"]) == IMAGES
    assert found["train"].features["cls"].names == list(CLASSES)
    for index, row in enumerate(found["train"]):
        assert row["cls"] == index % 4 and row["png"].getpixel((0, 0)) == (index * 10,) * 3
        assert row["json"]["row"] == str(index) and row["json"]["redraw"] == (1 if index in {1, 9} else None)
    assert len(list(datasets.load_dataset(str(synthetic), split="train", streaming=True))) == IMAGES


def test_the_card_names_the_shards_alone(synthetic):
    front = yaml.safe_load((synthetic / "README.md").read_text().split("---")[1])
    files = {path.name for path in synthetic.glob(front["configs"][0]["data_files"][0]["path"])}
    assert files == {shard_name(number) for number in range(SHARDS)}
