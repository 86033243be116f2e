import numpy as np
import pytest
from image_files import lay_out
from PIL import Image

from fglfast.base.errors import BadInputError
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import concatenate


@pytest.fixture
def folder(tmp_path):
    for name in ("kočka", "pes 犬"):
        (tmp_path / name).mkdir()
        for value in (10, 200):
            Image.new("L", (6, 4), value).save(tmp_path / name / f"{value}.png")
    return tmp_path


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
    for source in ("fashion", "fashion:", "fashion:train"):
        with pytest.raises(BadInputError) as refused:
            read_dataset(source)
        assert "fashion:private, fashion:test" in refused.value.hint and "/" not in refused.value.hint


def test_ones_own_folder_called_like_the_sample_is_said_not_to_be_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fashion").mkdir()
    read_dataset("fashion:test")
    assert "./fashion" in capsys.readouterr().err


def test_an_empty_name_is_not_the_folder_that_one_is_in(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(BadInputError, match="empty"):
        read_dataset("")


def test_shards_are_no_class_folders(folder):
    (folder / "dataset.json").write_text("{}")
    (folder / "train-000000.tar").touch()
    with pytest.raises(BadInputError) as refused:
        read_dataset(str(folder))
    assert str(folder / "imagefolder") in refused.value.hint


def test_labels_follow_another_order_of_the_classes(folder):
    found = read_dataset(str(folder)).named(("pes 犬", "mýval", "kočka"))
    assert found.labels.tolist() == [2, 2, 0, 0] and found.counts().tolist() == [2, 0, 2]
    with pytest.raises(BadInputError, match="images of unknown classes: kočka"):
        read_dataset(str(folder)).named(("pes 犬",))


def test_a_class_without_images_need_not_be_known(folder):
    (folder / "scripts").mkdir()
    found = read_dataset(str(folder))
    assert "scripts" in found.class_names
    assert found.named(("pes 犬", "kočka")).counts().tolist() == [2, 2]


def test_data_sets_are_joined_by_the_names_of_their_classes(folder):
    first = read_dataset(str(folder))
    second = first.named(("pes 犬", "mýval", "kočka"))
    both = concatenate([first, second])
    assert both.class_names == ("kočka", "pes 犬", "mýval") and both.counts().tolist() == [4, 4, 0]
    assert both.image(5).size == first.image(1).size


def test_endings_may_have_capitals_and_archives_are_to_be_unpacked(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 5, 5), np.uint8), labels=np.arange(2))
    (tmp_path / "x.npz").rename(tmp_path / "X.NPZ")
    assert len(read_dataset(str(tmp_path / "X.NPZ"))) == 2
    (tmp_path / "photos.zip").touch()
    with pytest.raises(BadInputError) as refused:
        read_dataset(str(tmp_path / "photos.zip"))
    assert "unpack" in refused.value.hint


@pytest.mark.parametrize("labelled", [True, False])
def test_links_to_folders_are_left_out_and_named(tmp_path, labelled, capsys):
    data = lay_out(tmp_path / "data", "cat/0.png", "dog/0.png")
    lay_out(tmp_path, "pool/1.png", "pool/2.png")
    (data / "cat" / "more").symlink_to(tmp_path / "pool")
    (data / "dog" / "same").symlink_to(data / "cat")
    assert read_dataset(str(data), labelled).names == ("cat/0.png", "dog/0.png")
    said = capsys.readouterr().err
    assert "skipped 2 of 4 images: cat/more (a link that leads out of the data set), dog/same (a link to an" in said
