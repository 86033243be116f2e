import io
import os
import zipfile
from types import SimpleNamespace

import numpy as np
import psutil
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from fglfast.base.errors import BadInputError, FglError
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import concatenate, to_rgb


def png(value=128, size=(6, 4), mode="RGB"):
    buffer = io.BytesIO()
    Image.new(mode, size, value if mode in {"L", "I;16"} else (value,) * len(mode)).save(buffer, "PNG")
    return buffer.getvalue()


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
    (folder / "kočka" / "text.txt").write_text("hello")
    outside = tmp_path_factory.mktemp("outside") / "x.png"
    outside.write_bytes(png())
    (folder / "kočka" / "link.png").symlink_to(outside)
    found = read_dataset(str(folder))
    assert len(found) == 4
    assert {entry.name.rpartition("/")[2] for entry in found.skipped} == {"zero.png", "cut.png", "text.txt", "link.png"}
    assert "skipped 4 of 8 images" in capsys.readouterr().err


def test_an_empty_class_stays_and_is_said(folder, capsys):
    (folder / "zebra").mkdir()
    assert read_dataset(str(folder)).counts().tolist() == [2, 2, 0]
    assert "zebra" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(mode):
    assert to_rgb(Image.new(mode, (3, 2))).mode == "RGB"


def test_transparency_lies_on_white():
    assert to_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_npz_with_splits(tmp_path):
    path = tmp_path / "data.npz"
    images, labels = np.zeros((3, 5, 5), np.uint8), np.array([0, 1, 1])
    np.savez(path, a_images=images, a_labels=labels, class_names=np.array(["x", "y"]))
    assert read_dataset(f"{path}:a").counts().tolist() == [1, 2]
    with pytest.raises(BadInputError) as refused:
        read_dataset(str(path))
    assert f"{path}:a" in refused.value.hint


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": np.zeros((2, 5, 5), np.float32), "labels": np.array([0, 1])},
        {"images": np.zeros((2, 5), np.uint8), "labels": np.array([0, 1])},
        {"images": np.zeros((2, 5, 5), np.uint8), "labels": np.array([0])},
        {"images": np.zeros((2, 5, 5), np.uint8), "labels": np.array([0.5, 1.0])},
        {"images": np.zeros((2, 5, 5), np.uint8)},
        {"images": np.zeros((2, 5, 5), np.uint8), "labels": np.array([0, 7]), "class_names": np.array(["x", "y"])},
        {"images": np.zeros((2, 5, 5), np.uint8), "labels": np.array([0, -1])},
        {"images": np.array([None, {}], dtype=object), "labels": np.array([0, 1])},
        {"images": np.zeros((0, 5, 5), np.uint8), "labels": np.zeros(0, np.int64)},
    ],
)
def test_a_bad_npz_is_refused(tmp_path, arrays):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(BadInputError):
        read_dataset(str(tmp_path / "bad.npz"))


@pytest.mark.parametrize("structs", [True, False])
def test_parquet(tmp_path, structs):
    contents = [png(1), b"", png(3)]
    images = [{"bytes": content, "path": "/etc/passwd"} for content in contents] if structs else contents
    table = pyarrow.table({"image": images, "label": ["b", "a", "a"]})
    pyarrow.parquet.write_table(table, tmp_path / "test-0.parquet")
    found = read_dataset(f"{tmp_path}:test")
    assert found.class_names == ("a", "b") and found.labels.tolist() == [1, 0] and len(found.skipped) == 1


def test_what_is_not_there_is_refused_with_a_guess(tmp_path):
    (tmp_path / "flowers").mkdir()
    with pytest.raises(BadInputError) as refused:
        read_dataset(str(tmp_path / "flower"))
    assert "flowers" in refused.value.hint
    with pytest.raises(BadInputError, match="no image"):
        read_dataset(str(tmp_path / "flowers"))


def test_the_bundled_sample():
    private, test = read_dataset("fashion:private"), read_dataset("fashion:test")
    assert private.class_names == test.class_names and len(private) == 5000 and len(test) == 4000
    assert set(private.counts()) == {500}


def test_labels_follow_another_order_of_the_classes(folder):
    found = read_dataset(str(folder)).named(("pes 犬", "mýval", "kočka"))
    assert found.labels.tolist() == [2, 2, 0, 0] and found.counts().tolist() == [2, 0, 2]
    with pytest.raises(BadInputError, match="1 classes are unknown: kočka"):
        read_dataset(str(folder)).named(("pes 犬",))


def test_data_sets_are_joined_by_the_names_of_their_classes(folder):
    first = read_dataset(str(folder))
    second = first.named(("pes 犬", "mýval", "kočka"))
    both = concatenate([first, second])
    assert both.class_names == ("kočka", "pes 犬", "mýval") and both.counts().tolist() == [4, 4, 0]
    assert both.image(5).size == first.image(1).size


def npz_header(shape):
    """An npy member that announces a shape and holds sixteen bytes."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + b"0" * 16


def test_an_npz_that_announces_more_than_it_holds_takes_no_memory(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", npz_header((1 << 40, 32, 32)))
        archive.writestr("labels.npy", npz_header((16,)))
    with pytest.raises(BadInputError, match="images announces"):
        read_dataset(str(tmp_path / "x.npz"))


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 20))
    images = np.zeros((2000, 32, 32), np.uint8)
    np.savez_compressed(tmp_path / "x.npz", images=images, labels=np.zeros(2000, np.int64))
    assert (tmp_path / "x.npz").stat().st_size < 10_000
    with pytest.raises(FglError, match=r"x\.npz: needs 0\.0 GiB of memory"):
        read_dataset(str(tmp_path / "x.npz"))


def test_an_npz_that_is_none(tmp_path):
    np.save(tmp_path / "x", np.zeros(3))
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    with pytest.raises(BadInputError, match="cannot be read as npz"):
        read_dataset(str(tmp_path / "x.npz"))
    np.savez(tmp_path / "y.npz", images=np.array([{}], dtype=object), labels=np.zeros(1, np.int64))
    with pytest.raises(BadInputError, match="cannot be read as npz"):
        read_dataset(str(tmp_path / "y.npz"))


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_a_label_of_a_billion_names_no_billion_classes(kind, tmp_path):
    if kind == "npz":
        np.savez(tmp_path / "x.npz", images=np.zeros((1, 4, 4), np.uint8), labels=np.array([1 << 40]))
    else:
        table = pyarrow.table({"image": [{"bytes": png(), "path": None}], "label": [1 << 40]})
        pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(BadInputError, match="at most 100000 classes"):
        read_dataset(str(tmp_path / f"x.{kind}"))


@pytest.mark.parametrize(
    "metadata", [b"{", b"[]", b'{"info": 3}', b'{"info": {"features": {"label": {"names": [1]}}}}']
)
def test_odd_metadata_of_a_table_is_no_traceback(metadata, tmp_path):
    table = pyarrow.table({"image": [{"bytes": png(), "path": None}], "label": [0]})
    pyarrow.parquet.write_table(table.replace_schema_metadata({b"huggingface": metadata}), tmp_path / "x.parquet")
    try:
        assert read_dataset(str(tmp_path / "x.parquet")).class_names == ("0",)
    except BadInputError as error:
        assert "x.parquet" in error.message


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
    assert "not a regular file" in reasons["pipe.png"] and "cannot identify" in reasons["page.eps"]
