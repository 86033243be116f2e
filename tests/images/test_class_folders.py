import os
import unicodedata

import pytest
from image_files import lay_out, png

from fglfast.base.errors import BadInputError
from fglfast.images.dataset import read_dataset


@pytest.fixture
def folder(tmp_path):
    for name in ("kočka", "pes 犬"):
        (tmp_path / name / "deeper").mkdir(parents=True)
        (tmp_path / name / "one.png").write_bytes(png(10))
        (tmp_path / name / "deeper" / "two.png").write_bytes(png(200, mode="L"))
    return tmp_path


def test_a_folder_of_class_folders(folder):
    found = read_dataset(str(folder))
    assert found.class_names == ("kočka", "pes 犬") and found.counts().tolist() == [2, 2]
    assert found.pixels(1, 8).shape == (8, 8, 3) and found.image(0).mode == "RGB"
    assert found.select([3]).labels.tolist() == [1]


def test_unreadable_images_are_named_and_skipped(folder, tmp_path_factory, capsys):
    (folder / "kočka" / "zero.png").touch()
    (folder / "kočka" / "cut.png").write_bytes(png()[:40])
    (folder / "kočka" / "text.jpg").write_text("hello")
    outside = tmp_path_factory.mktemp("outside") / "x.png"
    outside.write_bytes(png())
    (folder / "kočka" / "link.png").symlink_to(outside)
    found = read_dataset(str(folder))
    assert len(found) == 4
    assert {entry.name.rpartition("/")[2] for entry in found.skipped} == {"zero.png", "cut.png", "text.jpg", "link.png"}
    said = capsys.readouterr().err
    assert "skipped 4 of 8 images" in said and "BytesIO" not in said


def test_files_that_are_no_images_are_told_apart_from_damaged_ones(folder, capsys):
    for name in ("notes.txt", "labels.csv", "README"):
        (folder / "kočka" / name).write_text("hello")
    lay_out(folder, "kočka/photo.jpg_large")  # an image is one by its content
    found = read_dataset(str(folder))
    assert len(found) == 5 and not found.skipped
    said = capsys.readouterr().err
    assert "no images: 3 (" in said and "kočka/notes.txt" in said and "skipped" not in said and "DICOM" not in said
    (folder / "kočka" / "scan.DCM").write_bytes(bytes(128) + b"DICM")
    read_dataset(str(folder))
    assert "save DICOM and NIfTI as PNG or TIFF" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["__MACOSX", ".git", "System Volume Information", "$RECYCLE.BIN", "@eaDir"])
def test_what_systems_leave_is_nobodys_class(folder, name, capsys):
    lay_out(folder, f"{name}/kočka/0.png", f"kočka/{name}/0.png")
    for file in ("._one.png", "Thumbs.db", "desktop.ini", ".DS_Store"):
        (folder / "kočka" / file).write_text("x")
    found = read_dataset(str(folder))
    assert found.class_names == ("kočka", "pes 犬") and len(found) == 4 and not found.skipped
    assert capsys.readouterr().err == ""


def test_an_empty_class_stays_and_is_said(folder, capsys):
    (folder / "zebra").mkdir()
    assert read_dataset(str(folder)).counts().tolist() == [2, 2, 0]
    assert "zebra" in capsys.readouterr().err


def test_pipes_programs_and_linked_folders_are_left_out(folder, tmp_path_factory):
    os.mkfifo(folder / "kočka" / "pipe.png")
    (folder / "kočka" / "page.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    outside = tmp_path_factory.mktemp("outside")
    (outside / "x.png").write_bytes(png())
    (folder / "linked").symlink_to(outside)
    found = read_dataset(str(folder))
    assert len(found) == 4
    reasons = {entry.name.rpartition("/")[2]: entry.reason for entry in found.skipped}
    assert reasons.keys() == {"pipe.png", "page.eps", "linked"}
    assert "not a regular file" in reasons["pipe.png"] and "not recognised" in reasons["page.eps"]


@pytest.mark.parametrize("splits", [("train", "test"), ("Training", "Val2017"), ("training_set", "test_set")])
def test_several_splits_and_none_named_is_refused(tmp_path, splits):
    lay_out(tmp_path, *(f"{split}/{name}/0.png" for split in splits for name in ("cat", "dog")))
    (tmp_path / "annotations").mkdir()
    (tmp_path / splits[0] / "classes.txt").write_text("cat")
    lay_out(tmp_path, f"__MACOSX/{splits[0]}/._0.png")
    with pytest.raises(BadInputError) as refused:
        read_dataset(str(tmp_path))
    assert all(f"{tmp_path}:{split}" in refused.value.hint for split in splits)
    found = read_dataset(f"{tmp_path}:{splits[0]}")
    assert found.class_names == ("cat", "dog") and len(found) == 2 and found.source == f"{tmp_path}:{splits[0]}"


@pytest.mark.parametrize(
    "beside",
    [
        ("test/1.png",),  # a competition's: its labels are secret
        ("test/cat/0.png", "train/overview.png"),
        ("test/cat/0.png", "outputs/plot.png"),
        ("test/cat/0.png", "unlabeled/1.png", "sample_images/0.png"),
        ("testset/cat/0.png", "archive/train/cat/0.png", "archive/test/cat/0.png"),
    ],
)
def test_what_lies_beside_or_in_splits_makes_them_no_classes(tmp_path, beside):
    lay_out(tmp_path, "train/cat/0.png", "train/dog/0.png", *beside)
    for name in ("annotations/xmls", "logs/a", "train/empty"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "train" / "notes.pdf").write_text("x")
    with pytest.raises(BadInputError) as refused:
        read_dataset(str(tmp_path))
    assert f"{tmp_path}:train" in refused.value.hint
    assert {"cat", "dog"} <= set(read_dataset(f"{tmp_path}:train").class_names)


def test_a_split_a_folder_deeper_is_named_where_it_lies(tmp_path):
    lay_out(tmp_path, *(f"data/{split}/{name}/0.png" for split in ("train", "test") for name in ("cat", "dog")))
    with pytest.raises(BadInputError) as refused:
        read_dataset(f"{tmp_path}:train")
    assert f"{tmp_path / 'data'}:train" in refused.value.hint


@pytest.mark.parametrize(
    ("paths", "word"),
    [
        (("train/0.png", "test1/0.png"), "splits"),  # all images of a split in one folder, their names the labels
        (("train/cat/0.png", "outputs/plot.png"), "train"),
        (("dataset/cat/0.png", "dataset/dog/0.png"), "dataset"),
    ],
)
def test_classes_that_may_be_none_are_said(tmp_path, paths, word, capsys):
    lay_out(tmp_path, *paths)
    (tmp_path / paths[0].split("/")[0] / "readme.txt").write_text("x")
    read_dataset(str(tmp_path))
    assert word in capsys.readouterr().err


def test_images_beside_the_class_folders_are_counted(tmp_path, capsys):
    lay_out(tmp_path, "cat/0.png", "dog/0.png", "IMG_1.jpg", "IMG_2.jpg")
    assert len(read_dataset(str(tmp_path))) == 2
    assert "beside the class folders: 2 images" in capsys.readouterr().err


def test_photos_that_pillow_does_not_read_are_told_how_to_be_saved(tmp_path, capsys):
    lay_out(tmp_path, "cat/0.png")
    (tmp_path / "cat" / "IMG.HEIC").write_bytes(b"x")
    read_dataset(str(tmp_path))
    assert "save HEIC" in capsys.readouterr().err


def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    lay_out(tmp_path, "train/cat/0.png", "train_extra/cat/0.png")
    for split in ("tra", "test", "", "../train"):
        with pytest.raises(BadInputError) as refused:
            read_dataset(f"{tmp_path}:{split}")
    assert len(read_dataset(f"{tmp_path}:train")) == 1
    with pytest.raises(BadInputError) as refused:
        read_dataset(f"{tmp_path}:test")
    assert f"{tmp_path}:train, {tmp_path}:train_extra" in refused.value.hint


def test_one_split_alone_is_taken_also_within_another(tmp_path):
    lay_out(tmp_path, "archive/train/cat/0.png", "archive/train/dog/0.png")
    (tmp_path / "archive").rename(tmp_path / "training")
    assert read_dataset(str(tmp_path)).class_names == ("cat", "dog")


def test_the_classes_of_a_split_are_its_own_folders(tmp_path):
    lay_out(tmp_path, "train/cat/0.png", "train/dog/0.png", "test/dog/0.png")
    assert read_dataset(f"{tmp_path}:test").class_names == ("dog",)


@pytest.mark.parametrize(
    "paths",
    [
        ("test/0.png", "train/0.png"),  # trains, and tests of any kind
        ("test/deeper/0.png", "dog/0.png"),
        ("test/deeper/0.png", "dog/deeper/0.png"),
    ],
)
def test_classes_may_be_called_like_splits(tmp_path, paths):
    lay_out(tmp_path, *paths)
    assert read_dataset(str(tmp_path)).class_names == tuple(sorted(path.split("/")[0] for path in paths))


def test_classes_of_folders_alone_are_said_to_be(tmp_path, capsys):
    lay_out(tmp_path, "flowers/rose/0.png", "flowers/tulip/0.png")
    assert read_dataset(str(tmp_path)).class_names == ("flowers",)
    assert str(tmp_path / "flowers") in capsys.readouterr().err
    assert read_dataset(f"{tmp_path}:flowers").class_names == ("rose", "tulip")
    assert capsys.readouterr().err == ""


def test_a_split_is_no_link_to_elsewhere(tmp_path):
    lay_out(tmp_path / "elsewhere", "cat/0.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(tmp_path / "elsewhere")
    for source in ("data", "data:train"):
        with pytest.raises(BadInputError):
            read_dataset(str(tmp_path / source))


def test_labels_json_names_the_classes_and_their_order(tmp_path, capsys):
    lay_out(tmp_path, "0001 a_b/0.png", "Zoo/0.png", "Zoo/1.png")
    (tmp_path / "labels.json").write_text('{"Zoo": "Zoo", "0001 a_b": "a/b", "gone": "gone"}')
    found = read_dataset(str(tmp_path))
    assert found.class_names == ("Zoo", "a/b", "gone") and found.counts().tolist() == [2, 1, 0]
    assert "labels.json" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[1]", '{"cat": 3}', "{", '{"info": {}}'])
def test_another_labels_json_is_not_used_and_that_is_said(tmp_path, content, capsys):
    lay_out(tmp_path, "cat/0.png")
    (tmp_path / "labels.json").write_text(content)
    assert read_dataset(str(tmp_path)).class_names == ("cat",)
    assert "labels.json" in capsys.readouterr().err


def test_a_labels_json_that_leaves_a_folder_out_is_refused(tmp_path):
    lay_out(tmp_path, "cat/0.png", "dog/0.png")
    (tmp_path / "labels.json").write_text('{"cat": "Katze"}')
    with pytest.raises(BadInputError, match="dog"):
        read_dataset(str(tmp_path))


def test_one_name_written_in_two_ways_is_refused(tmp_path):
    lay_out(tmp_path, *(f"{unicodedata.normalize(form, 'é')}/0.png" for form in ("NFC", "NFD")))
    with pytest.raises(BadInputError, match="one name"):
        read_dataset(str(tmp_path))
