import pytest
from image_files import png

from fglfast.base.errors import BadInputError
from fglfast.images.dataset import read_dataset

datasets = pytest.importorskip("datasets", reason="needs the datasets package")


def table(*values, names=("x", "y"), split=None):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    images = [{"bytes": png(value), "path": None} for value in values]
    rows = {"image": images, "label": [row % 2 for row in range(len(values))]}
    return datasets.Dataset.from_dict(rows, features=features, split=split)


def test_splits_of_a_saved_dictionary(tmp_path):
    datasets.DatasetDict({"train": table(1, 2, 3), "train_extra": table(4)}).save_to_disk(tmp_path / "two")
    assert read_dataset(f"{tmp_path}/two:train").counts().tolist() == [2, 1]
    for source in ("two", "two:tr"):
        with pytest.raises(BadInputError) as refused:
            read_dataset(str(tmp_path / source))
        assert f"{tmp_path / 'two'}:train, {tmp_path / 'two'}:train_extra" in refused.value.hint
    datasets.DatasetDict({"train": table(1, 2, 3)}).save_to_disk(tmp_path / "one")
    assert len(read_dataset(str(tmp_path / "one"))) == 3


def test_a_saved_table_is_its_own_split_and_no_other(tmp_path):
    table(1, 2, split="train").save_to_disk(tmp_path / "x")
    assert len(read_dataset(str(tmp_path / "x"))) == len(read_dataset(f"{tmp_path}/x:train")) == 2
    with pytest.raises(BadInputError):
        read_dataset(f"{tmp_path}/x:test")


def test_what_datasets_writes_as_parquet(tmp_path):
    (tmp_path / "data").mkdir()
    for split, names in (("train", ("x", "y")), ("test", ("y", "x"))):
        table(1, 2, names=names).to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    found = read_dataset(f"{tmp_path}:test")
    assert found.class_names == ("y", "x") and found.named(("x", "y")).labels.tolist() == [1, 0]
