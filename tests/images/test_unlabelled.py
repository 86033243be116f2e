"""Data sets read without their labels, whether they have some or not."""

import io
import unicodedata

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from image_files import lay_out, png

from fglfast.base.errors import BadInputError
from fglfast.images.class_list import read_class_list
from fglfast.images.dataset import read_dataset


def read(source):
    found = read_dataset(str(source), labelled=False)
    assert found.class_names == ("unlabelled",) and not found.labels.any()
    return found


def test_images_of_a_folder_however_deep_they_lie(tmp_path):
    lay_out(tmp_path, "a.png", "b/c.png", "b/d/e.png", ".hidden/f.png")
    (tmp_path / "notes.txt").write_text("x")
    assert read(tmp_path).names == ("a.png", "b/c.png", "b/d/e.png")
    with pytest.raises(BadInputError):
        read(lay_out(tmp_path / "none"))


def test_class_folders_are_read_as_if_they_were_none(tmp_path):
    lay_out(tmp_path, "cat/0.png", "dog/0.png")
    assert len(read(tmp_path)) == 2 and len(read_dataset(str(tmp_path)).class_names) == 2


@pytest.mark.parametrize("inner", ["", "cat/"])
def test_splits_of_folders_with_and_without_classes(tmp_path, inner):
    lay_out(tmp_path, f"train/{inner}0.png", f"train/{inner}1.png", f"test/{inner}0.png")
    assert len(read(f"{tmp_path}:train")) == 2 and len(read(f"{tmp_path}:test")) == 1
    with pytest.raises(BadInputError) as refused:
        read(tmp_path)
    assert f"{tmp_path}:test, {tmp_path}:train" in refused.value.hint


def test_a_link_out_of_the_folder_is_left_out(tmp_path):
    lay_out(tmp_path, "data/0.png", "outside.png")
    (tmp_path / "data" / "1.png").symlink_to(tmp_path / "outside.png")
    found = read(tmp_path / "data")
    assert found.names == ("0.png",) and "link" in found.skipped[0].reason


@pytest.mark.parametrize("labels", [None, [1, 0], ["any", None]])
def test_tables_need_no_column_of_labels_and_read_none(tmp_path, labels):
    columns = {"image": [png(1), png(2)]} | ({"label": labels} if labels else {})
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    assert len(read(tmp_path / "x.parquet")) == 2
    pyarrow.parquet.write_table(pyarrow.table({"picture": [png(1)]}), tmp_path / "y.parquet")
    with pytest.raises(BadInputError) as refused:
        read(tmp_path / "y.parquet")
    assert refused.value.hint == "need image"


@pytest.mark.parametrize("labels", [{}, {"train_labels": np.array([0.5])}, {"class_names": np.array(["a"])}])
def test_an_npz_needs_no_labels_and_reads_none(tmp_path, labels):
    np.savez(tmp_path / "x.npz", train_images=np.zeros((2, 4, 4), np.uint8), **labels)
    assert len(read(f"{tmp_path / 'x.npz'}:train")) == 2
    np.savez(tmp_path / "y.npz", train_images=np.zeros((2, 4, 4)))
    with pytest.raises(BadInputError):
        read(tmp_path / "y.npz")


def test_what_datasets_saved_needs_no_labels(tmp_path):
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    pictures = [Image.open(io.BytesIO(png(value))) for value in (1, 2)]
    datasets.Dataset.from_dict({"image": pictures}).cast_column("image", datasets.Image()).save_to_disk(
        str(tmp_path / "saved")
    )
    assert len(read(tmp_path / "saved")) == 2
    with pytest.raises(BadInputError):
        read_dataset(str(tmp_path / "saved"))


def test_a_list_of_classes(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes("\ufeffred fox\r\n\n  kočka \npes 犬\n".encode())
    assert read_class_list(path) == ("red fox", "kočka", "pes 犬")
    path.write_text(unicodedata.normalize("NFD", "kočka\ncafé\n"))
    assert read_class_list(path) == ("kočka", "café")


@pytest.mark.parametrize("content", [b"", b"\n \n", b"a\nb\na\n", b"a\x07\n", b"\xff\xfe", b"x" * 300])
def test_a_list_of_classes_that_is_none(tmp_path, content):
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(BadInputError, match=r"classes\.txt"):
        read_class_list(tmp_path / "classes.txt")
    with pytest.raises(BadInputError, match="gone"):
        read_class_list(tmp_path / "gone.txt")
