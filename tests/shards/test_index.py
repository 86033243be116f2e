"""A data set of shards, read by its index: what is missing, surplus, odd or damaged."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shard_samples import CLASSES, SIZE, change_json, encoded, images_of, index_of, picture, sample, write_tar

from fglfast.base.errors import BadInputError, FglError, IncompleteError
from fglfast.shards.description import read_description

Make = Callable[..., Path]


def test_index_finds_every_image_and_label(synthetic: Path) -> None:
    index = index_of(synthetic)
    assert read_description(synthetic).class_names == CLASSES
    assert len(index) == 120
    assert np.bincount(index.labels).tolist() == [40, 40, 40]
    pixels = images_of(synthetic)[0].permute(1, 2, 0).numpy()
    assert (pixels == picture(int(index.labels[0]), 0)).all()


def test_missing_shard_is_incomplete(make_synthetic: Make) -> None:
    folder = make_synthetic()
    (folder / "train-000001.tar").unlink()
    with pytest.raises(IncompleteError, match=r"lacks 1 of 3 shards, first train-000001\.tar") as caught:
        index_of(folder)
    assert "run it again" in caught.value.hint


def test_surplus_shard_is_refused(make_synthetic: Make) -> None:
    folder = make_synthetic()
    write_tar(folder / "train-000003.tar", [])
    with pytest.raises(BadInputError, match=r"train-000003\.tar, but dataset\.json knows 3 shards"):
        index_of(folder)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"format_version": 4}, "format version 4"),
        ({"images": 119}, "holds 120 images"),
        ({"class_names": ["a", "a", "b"]}, "is there twice"),
        ({"class_names": ["a", "b"]}, "there are 2 classes"),
        ({"image_size": "large"}, "image_size"),
        ({"plan": ""}, "plan"),
        ({"images": "120"}, "images"),
        ({"images": True}, "images"),
        ({"images": 120.0}, "images"),
        ({"image_size": 8192}, "image_size"),
    ],
)
def test_facts_that_do_not_fit_are_refused(make_synthetic: Make, facts: dict, words: str) -> None:
    with pytest.raises(BadInputError, match=words):
        index_of(make_synthetic(**facts))


def test_folder_without_facts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="not a synthetic data set"):
        read_description(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(BadInputError, match=r"dataset\.json"):
        read_description(tmp_path)


IMAGE = encoded(picture(0, 0))


def members(key: int | str = 0, image: bytes = IMAGE, label: bytes = b"0", kind: str = "png") -> list:
    return sample(key, image, label, kind)


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (members("../000000000"), r"\.\./000000000\.png"),
        (members("/000000000"), r"/000000000\.png"),
        ([("000000000.pkl", b"x")], r"000000000\.pkl"),
        (members()[:1], r"000000000\.cls"),
        (members()[1:2], r"000000000\.cls"),
        (members()[:2], r"000000000\.json"),
        ([members()[0], *members(kind="webp")], r"000000000\.cls"),
        ([*members()[::2], members()[1]], r"000000000\.cls"),
        (members(label=b"-1"), r"000000000\.cls is not a label: b'-1'"),
        (members(label=b"1e3"), r"000000000\.cls is not a label: b'1e3'"),
        (members(label=b"1" * 31), r"000000000\.cls is not a label"),  # of no int64
        (members(label=b"3"), "label 3"),
    ],
)
def test_odd_members_are_refused(make_synthetic: Make, held: list, words: str) -> None:
    folder = make_synthetic(per_class=1, shards=1, images=1)
    write_tar(folder / "train-000000.tar", held)
    with pytest.raises(BadInputError, match=words):
        index_of(folder)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_links_and_devices_are_refused(make_synthetic: Make, kind: bytes) -> None:
    folder = make_synthetic(per_class=1, shards=1, images=1)
    with tarfile.open(folder / "train-000000.tar", "w") as tar:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = kind, "/etc/hostname"
        tar.addfile(info)
    with pytest.raises(BadInputError, match=r"a\.png"):
        index_of(folder)


@given(cut=st.integers(0, 20_000), flip=st.integers(0, 20_000))
def test_damaged_shard_never_ends_in_a_traceback(tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    write_tar(folder / "train-000000.tar", [member for n in range(9) for member in members(n)])
    facts = {"format_version": 1, "class_names": ["a"], "image_size": SIZE, "plan": "p", "images": 9, "shards": 1}
    (folder / "dataset.json").write_text(json.dumps(facts))
    content = bytearray((folder / "train-000000.tar").read_bytes())
    content[flip % len(content)] ^= 0xFF
    (folder / "train-000000.tar").write_bytes(content[: cut % len(content)])
    try:
        images = images_of(folder)
        for row in range(len(images)):
            assert images[row].shape == (3, SIZE, SIZE)
    except FglError:
        pass


def test_undecodable_or_wrongly_sized_image_is_named(make_synthetic: Make) -> None:
    folder = make_synthetic(per_class=1, shards=1, images=2)
    wide = encoded(np.zeros((SIZE, SIZE + 1, 3), np.uint8))
    broken = IMAGE[:-30] + b"x" * 30
    write_tar(folder / "train-000000.tar", [*members(image=wide), *members(1, broken, b"1")])
    images = images_of(folder)
    with pytest.raises(BadInputError, match="17x16, not 16x16"):
        images[0]
    with pytest.raises(BadInputError, match=r"train-000000\.tar: the image at byte"):
        images_of(folder)[1]


def test_a_billion_announced_shards_cost_nothing(make_synthetic: Make) -> None:
    made = make_synthetic()
    change_json(made / "dataset.json", shards=10**15, images=10**17)
    with pytest.raises(IncompleteError, match=r"lacks 999999999999997 of .*, first train-000003\.tar"):
        index_of(made)


def test_a_shard_that_is_a_link_out_is_not_followed(make_synthetic: Make, tmp_path: Path) -> None:
    folder = make_synthetic()
    (folder / "train-000001.tar").rename(tmp_path / "elsewhere.tar")
    (folder / "train-000001.tar").symlink_to(tmp_path / "elsewhere.tar")
    with pytest.raises(BadInputError, match=r"train-000001\.tar is a link that leads out"):
        index_of(folder)
