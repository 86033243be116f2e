import json
import sys
import unicodedata

import pyarrow
import pyarrow.parquet
import pytest
from image_files import lay_out, png

from fglfast.base.errors import BadInputError, MissingExtraError
from fglfast.images.dataset import read_dataset


def write(path, images, labels, names=None):
    """A parquet file as `datasets` writes it, with the class names that it declares."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table({"image": images, "label": labels})
    if names:
        info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({b"huggingface": json.dumps(info).encode()})
    pyarrow.parquet.write_table(table, path)


def cells(*values):
    return [{"bytes": png(value), "path": None} for value in values]


def by_name(found):
    """(class, brightness) of every image."""
    return [(found.class_names[label], found.image(row).getpixel((0, 0))[0]) for row, label in enumerate(found.labels)]


@pytest.mark.parametrize("structs", [True, False])
def test_parquet(tmp_path, structs):
    contents = [png(1), b"", png(3)]
    images = [{"bytes": content, "path": "/etc/passwd"} for content in contents] if structs else contents
    write(tmp_path / "test-0.parquet", images, ["b", "a", "a"])
    found = read_dataset(f"{tmp_path}:test")
    assert found.class_names == ("a", "b") and found.labels.tolist() == [1, 0] and len(found.skipped) == 1


HUB = ("train-00000-of-00002", "train-00001-of-00002", "train_extra-00000-of-00001", "test-00000-of-00001")


@pytest.mark.parametrize("inner", ["", "data", "plain_text"])
def test_the_layout_of_the_hub(tmp_path, inner):
    for value, name in enumerate(HUB):
        write(tmp_path / inner / f"{name}.parquet", cells(value), [0], ["x"])
    with pytest.raises(BadInputError) as refused:
        read_dataset(str(tmp_path))
    assert all(f"{tmp_path}:{split}" in refused.value.hint for split in ("train", "train_extra", "test"))
    found = {split: by_name(read_dataset(f"{tmp_path}:{split}")) for split in ("train", "train_extra", "test")}
    assert found == {"train": [("x", 0), ("x", 1)], "train_extra": [("x", 2)], "test": [("x", 3)]}
    with pytest.raises(BadInputError):
        read_dataset(f"{tmp_path}:tr")


@pytest.mark.parametrize(
    ("paths", "splits"),
    [
        (["train/0000", "train/0001", "test/0000"], {"train": 2, "test": 1}),
        (["train", "test", "extra"], {"train": 1, "test": 1, "extra": 1}),
        (["data/train-00000-of-00001-0123456789abcdef", "data/test-00000-of-00001-fedcba9876543210"], {"train": 1}),
        (["big/train-00000-of-00001", "small/train-00000-of-00001"], {"big/train": 1, "small/train": 1}),
        (["train.0", "train-1", ".hidden/test"], {"train": 2}),
        (["train.2016", "train.2017"], {"train.2016": 1, "train.2017": 1}),  # years are no parts
        (["fold_0", "fold_1", "fold_2"], {"fold_0": 1, "fold_1": 1, "fold_2": 1}),
        (["train.parquet/part-00000-ab.snappy", "test.parquet/part-00000-ab.snappy"], {"train": 1, "test": 1}),  # Spark
    ],
)
def test_splits_by_the_names_of_files_and_folders(tmp_path, paths, splits):
    for path in paths:
        write(tmp_path / f"{path}.parquet", cells(1), [0])
    assert {split: len(read_dataset(f"{tmp_path}:{split}")) for split in splits} == splits
    if len(splits) == 1 and sum(splits.values()) == len(paths):
        assert len(read_dataset(str(tmp_path))) == len(paths)


@pytest.mark.parametrize("names", [["0000", "0001"], ["cats", "dogs"], ["part-00000-1f-c000.snappy", "part-00001-2e"]])
def test_parts_named_by_no_split_are_one_data_set(tmp_path, names):
    for name in names:
        write(tmp_path / f"{name}.parquet", cells(1), [0])
    assert len(read_dataset(str(tmp_path))) == 2
    with pytest.raises(BadInputError):
        read_dataset(f"{tmp_path}:train")


def test_a_file_has_the_split_of_its_name_and_no_other(tmp_path):
    write(tmp_path / "train.parquet", cells(1), [0])
    assert len(read_dataset(f"{tmp_path / 'train.parquet'}:train")) == len(read_dataset(str(tmp_path))) == 1
    with pytest.raises(BadInputError):
        read_dataset(f"{tmp_path / 'train.parquet'}:test")


def test_labels_of_parts_are_matched_by_the_names_of_the_classes(tmp_path):
    write(tmp_path / "train-00000-of-00003.parquet", cells(1, 2), [0, 1], ["cat", "dog"])
    write(tmp_path / "train-00001-of-00003.parquet", cells(3, 4), [0, 1], ["dog", "cat"])
    write(tmp_path / "train-00002-of-00003.parquet", cells(5, 6), ["owl", "cat"])
    found = read_dataset(str(tmp_path))
    assert found.class_names == ("cat", "dog", "owl")
    assert by_name(found) == [("cat", 1), ("dog", 2), ("dog", 3), ("cat", 4), ("owl", 5), ("cat", 6)]


@pytest.mark.parametrize(
    ("labels", "names"), [([0], None), ([7], ["cat"]), ([-1], ["cat"]), ([None], ["cat"]), ([0], ["cat", "cat"])]
)
def test_labels_that_name_no_class_are_refused(tmp_path, labels, names):
    write(tmp_path / "train-00000-of-00002.parquet", cells(1), [0], ["cat"])
    write(tmp_path / "train-00001-of-00002.parquet", cells(2), labels, names)
    with pytest.raises(BadInputError):
        read_dataset(str(tmp_path))


def test_numbers_without_names_are_their_own_names(tmp_path):
    write(tmp_path / "a.parquet", cells(1, 2), [0, 2])
    write(tmp_path / "b.parquet", cells(3), [10])
    found = read_dataset(str(tmp_path))
    assert len(found.class_names) == 11 and by_name(found) == [("0", 1), ("2", 2), ("10", 3)]


@pytest.mark.parametrize("structs", [True, False])
def test_images_that_are_paths_are_read_within_the_folder(tmp_path, structs):
    data = lay_out(tmp_path / "data set", "images/0.png", "data/beside.png")
    lay_out(tmp_path, "outside.png")
    (data / "link.png").symlink_to(tmp_path / "outside.png")
    paths = ["images/0.png", "beside.png", "../outside.png", str(data / "images/0.png"), "link.png", "n" * 9000, "a\0b"]
    images = [{"bytes": None, "path": path} for path in paths] if structs else paths
    write(data / "data" / "train-00000-of-00001.parquet", images, ["x"] * len(images))
    found = read_dataset(str(data))
    assert found.names == ("row 0", "row 1") and len(found.skipped) == 5
    assert all("no file of the data set" in entry.reason for entry in found.skipped)


@pytest.mark.parametrize("path", ["0.png", "gone.png", "/etc/0.png"])
def test_a_table_of_paths_alone_says_what_it_holds(tmp_path, path):
    """Beside a lone file may lie pictures that were never meant: they are read where their folder is given."""
    lay_out(tmp_path, "0.png")
    write(tmp_path / "p.parquet", [{"bytes": None, "path": path}] * 2, [0, 1])
    with pytest.raises(BadInputError, match="paths") as refused:
        read_dataset(str(tmp_path / "p.parquet"))
    assert path in refused.value.message and "embed_external_files=True" in refused.value.hint


def test_class_folders_with_a_table_among_them_stay_class_folders(tmp_path):
    lay_out(tmp_path, "cat/0.png", "dog/0.png")
    write(tmp_path / "cat" / "notes.parquet", cells(1), [0])
    found = read_dataset(str(tmp_path))
    assert found.class_names == ("cat", "dog") and len(found) == 2


@pytest.mark.parametrize(
    "metadata", [b"{", b"[]", b'{"info": 3}', b'{"info": {"features": {"label": {"names": [1]}}}}']
)
def test_odd_metadata_of_a_table_is_no_traceback(metadata, tmp_path):
    table = pyarrow.table({"image": cells(1), "label": [0]})
    pyarrow.parquet.write_table(table.replace_schema_metadata({b"huggingface": metadata}), tmp_path / "x.parquet")
    try:
        assert read_dataset(str(tmp_path / "x.parquet")).class_names == ("0",)
    except BadInputError as error:
        assert "x.parquet" in error.message


def test_a_label_of_a_billion_names_no_billion_classes(tmp_path):
    write(tmp_path / "x.parquet", cells(1), [1 << 40])
    with pytest.raises(BadInputError, match="at most 100000 classes"):
        read_dataset(str(tmp_path / "x.parquet"))


def test_parquet_without_pyarrow_names_the_command_that_brings_it(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError) as missing:
        read_dataset(str(tmp_path / "a.parquet"))
    assert missing.value.hint == "pip install pyarrow" and missing.value.exit_code == 3


def test_parts_that_are_not_there_are_said(tmp_path, capsys):
    write(tmp_path / "data" / "train-00001-of-00003.parquet", cells(1), [0])
    assert len(read_dataset(str(tmp_path))) == 1
    assert "of 3 parts 2 are not there (0, 2)" in capsys.readouterr().err


def test_a_part_that_is_there_twice_is_refused(tmp_path):
    for commit in ("aaaa", "bbbb"):
        write(tmp_path / f"train-00000-of-00001-{commit}.parquet", cells(1), [0])
    with pytest.raises(BadInputError, match="twice"):
        read_dataset(str(tmp_path))


def test_folders_of_images_beside_parquet_are_said_to_be_left_out(tmp_path, capsys):
    write(tmp_path / "data" / "x.parquet", cells(1), [0])
    lay_out(tmp_path, "cat/0.png")
    assert len(read_dataset(str(tmp_path))) == 1
    assert "cat are left out" in capsys.readouterr().err


def test_folders_called_like_files_of_tables_are_folders(tmp_path):
    lay_out(tmp_path, "cat.parquet/0.png", "dataset_info.json/0.png")
    pyarrow.parquet.write_table(
        pyarrow.table({"file_name": ["cat/0.png"], "camera": ["X1"]}), tmp_path / "metadata.parquet"
    )
    assert read_dataset(str(tmp_path)).class_names == ("cat.parquet", "dataset_info.json")


@pytest.mark.parametrize("place", ["", "cat", "train", "train/cat"])
def test_metadata_of_parquet_that_says_labels_is_refused_and_so_is_what_cannot_be_read(place, tmp_path):
    lay_out(tmp_path, *(f"{'train/' if 'train' in place else ''}{name}/0.png" for name in ("cat", "dog")))
    table = tmp_path / place / "metadata.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"file_name": ["0.png"], "label": [1]}), table)
    with pytest.raises(BadInputError, match="lists images and their labels") as refused:
        read_dataset(str(tmp_path))
    assert refused.value.message.startswith(f"{table}: ") and "metadata.csv" in str(refused.value.hint)
    table.write_bytes(b"of something else")
    with pytest.raises(BadInputError, match=r"metadata\.parquet: cannot be used"):
        read_dataset(str(tmp_path))


def test_a_row_without_a_label_is_named(tmp_path):
    write(tmp_path / "x.parquet", cells(1, 2, 3), ["a", None, "b"])
    with pytest.raises(BadInputError, match="row 1 has no label"):
        read_dataset(str(tmp_path / "x.parquet"))


def test_a_row_without_a_label_is_named_in_its_part(tmp_path):
    write(tmp_path / "a.parquet", cells(1, 2), ["a", "b"])
    write(tmp_path / "b.parquet", cells(3, 4), ["a", None])
    with pytest.raises(BadInputError, match="file 2 of 2 by name, row 1 has no label"):
        read_dataset(str(tmp_path))


@pytest.mark.parametrize("names", [None, ["cat", "dog"]])
@pytest.mark.parametrize("missing", [-1, None])
def test_a_split_without_labels_is_said_to_have_none(tmp_path, names, missing):
    labels = pyarrow.array([missing] * 2, pyarrow.int64())
    write(tmp_path / "x.parquet", cells(1, 2), labels, names)
    with pytest.raises(BadInputError, match="no image has a label") as refused:
        read_dataset(str(tmp_path / "x.parquet"))
    assert "split" in refused.value.hint


@pytest.mark.parametrize("names", [None, ["cat"]])
def test_some_rows_without_a_label_are_to_be_left_out(tmp_path, names):
    write(tmp_path / "x.parquet", cells(1, 2), [0, -1], names)
    with pytest.raises(BadInputError, match="label -1, but there are 1 classes") as refused:
        read_dataset(str(tmp_path / "x.parquet"))
    assert "leave out the rows without a label" in refused.value.hint


def test_words_for_a_missing_label_are_none_among_numbers_and_doubted_among_names(tmp_path, capsys):
    write(tmp_path / "numbers.parquet", cells(1, 2, 3), ["0", "NA", "1"])
    with pytest.raises(BadInputError, match="label 'NA' among numbers") as refused:
        read_dataset(str(tmp_path / "numbers.parquet"))
    assert "leave out the rows without a label" in refused.value.hint
    for names, said in ((None, True), (["NA", "a"], False)):
        write(tmp_path / "names.parquet", cells(1, 2), [0, 1] if names else ["NA", "a"], names)
        assert by_name(read_dataset(str(tmp_path / "names.parquet"))) == [("NA", 1), ("a", 2)]
        assert ("is it a missing label?" in capsys.readouterr().err) is said


def test_names_of_classes_are_written_in_one_way(tmp_path):
    decomposed = unicodedata.normalize("NFD", "é")
    write(tmp_path / "text.parquet", cells(1, 2, 3), ["é", f"{decomposed} ", "b"])
    write(tmp_path / "declared.parquet", cells(4), [0], [decomposed])
    assert by_name(read_dataset(str(tmp_path / "text.parquet"))) == [("é", 1), ("é", 2), ("b", 3)]
    assert read_dataset(str(tmp_path / "declared.parquet")).class_names == ("é",)


def test_declared_names_that_differ_only_in_how_they_are_written_stay_apart(tmp_path, capsys):
    decomposed = unicodedata.normalize("NFD", "é")
    write(tmp_path / "a.parquet", cells(1, 2), [0, 1], ["é", decomposed])
    write(tmp_path / "b.parquet", cells(3), [0], [decomposed])
    assert by_name(read_dataset(str(tmp_path))) == [("é", 1), (decomposed, 2), (decomposed, 3)]
    assert r"stay apart: 'e\u0301', '\xe9'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("images", "kind", "hint"),
    [
        ([[[1, 2], [3, 4]]], "list of list of int", "save_to_disk"),
        ([cells(1)], "list of image", "one image a row"),
        ([None, 3], "int", "save_to_disk"),
    ],
)
def test_a_column_of_what_no_image_is_is_named(tmp_path, images, kind, hint):
    write(tmp_path / "x.parquet", images, ["a"] * len(images))
    with pytest.raises(BadInputError, match=f"is of type {kind}, which is not read") as refused:
        read_dataset(str(tmp_path / "x.parquet"))
    assert hint in refused.value.hint
