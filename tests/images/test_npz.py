import io
import unicodedata
import zipfile
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from fglfast.base.errors import BadInputError, FglError
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import concatenate


def save(path, *splits):
    """Images of each split, the first of two images, the next of three, and so on."""
    arrays = {}
    for count, split in enumerate(splits, start=2):
        arrays[f"{split}images"] = np.zeros((count, 5, 5), np.uint8)
        arrays[f"{split}labels"] = np.arange(count) % 2
    np.savez(path, **arrays, class_names=np.array(["x", "y"]))
    return path


def test_npz_with_splits(tmp_path):
    path = save(tmp_path / "data.npz", "a_", "b_")
    assert read_dataset(f"{path}:a").counts().tolist() == [1, 1] and len(read_dataset(f"{path}:b")) == 3
    for source in (str(path), f"{path}:c", f"{path}:"):
        with pytest.raises(BadInputError) as refused:
            read_dataset(source)
        assert f"{path}:a, {path}:b" in refused.value.hint


def test_its_digest_is_of_classes_and_pixels_in_any_order(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (4, 5, 5), dtype=np.uint8)

    def digest(images, labels=(0, 1, 0, 1)):
        np.savez(tmp_path / "data.npz", images=images, labels=np.array(labels), class_names=np.array(["x", "y"]))
        return read_dataset(str(tmp_path / "data.npz")).digest()

    first = digest(pixels)
    assert first == digest(pixels) != digest(pixels[..., ::-1]) and first != digest(pixels, (1, 0, 0, 1))
    found = read_dataset(str(tmp_path / "data.npz"))
    assert found.select([3, 1, 0, 2]).digest() == found.digest() != found.select([0, 1, 2]).digest()
    halves = [found.select([2, 3]), found.select([0, 1])]
    assert concatenate(halves).digest() == found.digest()


def test_a_split_alone_is_taken(tmp_path):
    assert len(read_dataset(str(save(tmp_path / "one.npz", "a_")))) == 2
    assert len(read_dataset(str(save(tmp_path / "none.npz", "")))) == 2
    with pytest.raises(BadInputError):
        read_dataset(f"{tmp_path / 'none.npz'}:train")


def test_medmnist_is_read(tmp_path):
    """Its labels are a column, and have no names."""
    arrays = {"train_images": np.zeros((3, 28, 28, 3), np.uint8), "train_labels": np.array([[1], [0], [2]], np.uint8)}
    np.savez(tmp_path / "bloodmnist.npz", **arrays)
    found = read_dataset(f"{tmp_path / 'bloodmnist.npz'}:train")
    assert found.labels.tolist() == [1, 0, 2] and found.class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": np.zeros((2, 5, 5), np.uint8), "labels": np.array([[0, 1], [1, 0]])},
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
    with pytest.raises(BadInputError, match=r"x\.npz: cannot be used"):
        read_dataset(str(tmp_path / "x.npz"))
    np.savez(tmp_path / "y.npz", images=np.array([{}], dtype=object), labels=np.zeros(1, np.int64))
    with pytest.raises(BadInputError, match=r"y\.npz: cannot be used"):
        read_dataset(str(tmp_path / "y.npz"))


def test_a_damaged_npz_is_refused_wherever_the_damage_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 32, (20, 8, 8), dtype=np.uint8) * 8
    np.savez_compressed(tmp_path / "x.npz", images=pixels, labels=np.arange(20) % 3)
    whole = read_dataset(str(tmp_path / "x.npz")).digest()
    content = (tmp_path / "x.npz").read_bytes()
    for place in range(0, len(content), 7):
        damaged = content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]
        (tmp_path / "y.npz").write_bytes(damaged)
        try:
            assert read_dataset(str(tmp_path / "y.npz")).digest() == whole
        except BadInputError as refused:
            assert "y.npz: " in refused.message


@pytest.mark.parametrize(("highest", "said"), [(1, True), (0, False), (2, False)])
def test_images_of_0_and_1_are_said_to_be_nearly_black(tmp_path, capsys, highest, said):
    images = np.arange(75, dtype=np.uint8).reshape(3, 5, 5) % (highest + 1)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(3))
    assert len(read_dataset(str(tmp_path / "x.npz"))) == 3
    assert ("multiply by 255 if 1 is white" in capsys.readouterr().err) is said
    np.savez(tmp_path / "y.npz", images=images.astype(np.float32), labels=np.arange(3))
    with pytest.raises(BadInputError) as refused:
        read_dataset(str(tmp_path / "y.npz"))
    assert "by 255 first" in refused.value.hint


def test_a_label_of_a_billion_names_no_billion_classes(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((1, 4, 4), np.uint8), labels=np.array([1 << 40]))
    with pytest.raises(BadInputError, match="at most 100000 classes"):
        read_dataset(str(tmp_path / "x.npz"))


def test_images_beside_those_of_a_split_are_refused_unless_one_is_named(tmp_path):
    save(tmp_path / "x.npz", "", "test_")
    with pytest.raises(BadInputError) as refused:
        read_dataset(f"{tmp_path}/x.npz")
    assert f"{tmp_path}/x.npz:test" in refused.value.hint
    assert len(read_dataset(f"{tmp_path}/x.npz:test")) == 3


def test_class_names_of_bytes_are_text(tmp_path):
    arrays = {"images": np.zeros((2, 5, 5), np.uint8), "labels": np.arange(2)}
    np.savez(tmp_path / "x.npz", **arrays, class_names=np.array(["é".encode(), b"dog"]))
    assert read_dataset(f"{tmp_path}/x.npz").class_names == ("é", "dog")
    np.savez(tmp_path / "y.npz", **arrays, class_names=np.array([b"\xff", b"dog"]))
    with pytest.raises(BadInputError, match="UTF-8"):
        read_dataset(f"{tmp_path}/y.npz")


def test_class_names_are_written_in_one_way(tmp_path, capsys):
    arrays = {"images": np.zeros((2, 5, 5), np.uint8), "labels": np.arange(2)}
    decomposed = unicodedata.normalize("NFD", "é")
    np.savez(tmp_path / "x.npz", **arrays, class_names=np.array([f" {decomposed}", "dog"]))
    assert read_dataset(f"{tmp_path}/x.npz").class_names == ("é", "dog")
    np.savez(tmp_path / "y.npz", **arrays, class_names=np.array([decomposed, "é"]))
    assert read_dataset(f"{tmp_path}/y.npz").class_names == (decomposed, "é")
    assert r"stay apart: 'e\u0301', '\xe9'" in capsys.readouterr().err


@pytest.mark.parametrize("objects", ["images", "labels", "class_names"])
def test_arrays_of_objects_are_said_to_be_such(tmp_path, objects):
    arrays = {"images": np.zeros((400, 5, 5), np.uint8), "labels": np.zeros(400, int), "class_names": np.array(["a"])}
    np.savez(tmp_path / "x.npz", **(arrays | {objects: np.array([None] * 400)}))
    with pytest.raises(BadInputError, match=f"{objects} is an array of Python objects"):
        read_dataset(f"{tmp_path}/x.npz")


@pytest.mark.parametrize(
    ("labels", "said"), [([-1, -1], "no image has a label"), ([0, -1], "label -1, but there are 1 classes")]
)
def test_labels_that_are_missing_are_said_to_be(tmp_path, labels, said):
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 5, 5), np.uint8), labels=np.array(labels))
    with pytest.raises(BadInputError, match=said):
        read_dataset(f"{tmp_path}/x.npz")
