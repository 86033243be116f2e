import pytest
from hypothesis import given
from hypothesis import strategies as st

from fglfast.base.folders import leads_out, numbered
from fglfast.shards.folder import NAME_BYTES, safe_name
from fglfast.shards.tar import shard_name


def test_links_out_of_a_folder(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "file").touch()
    (inside / "in").symlink_to(inside / "file")
    (inside / "out").symlink_to(outside / "file")
    (inside / "folder").symlink_to(outside)
    (inside / "round").symlink_to(inside / "round")
    (tmp_path / "name").symlink_to(inside)
    led = {name: leads_out(inside / name, inside) for name in ("file", "in", "out", "folder/file", "round", "none")}
    assert led == {"file": False, "in": False, "out": True, "folder/file": True, "round": False, "none": False}
    assert not leads_out(tmp_path / "name" / "file", tmp_path / "name")


@pytest.mark.parametrize("count", [2, 10**15])
def test_numbered_files_cost_what_is_there(tmp_path, count):
    names = {
        "train-000000.tar",
        "train-000001.tar",
        "train-1.tar",
        "train-0000001.tar",
        "other.tar",
        "train-000009.tar",
    }
    for name in names:
        (tmp_path / name).touch()
    known = {"train-000000.tar", "train-000001.tar"} | ({"train-000009.tar"} if count > 9 else set())
    assert numbered(tmp_path, shard_name, count) == (known, names - known)


@given(st.lists(st.text(min_size=1, max_size=200), min_size=1, max_size=6, unique=True))
def test_folders_of_classes_are_names_and_never_shared(names):
    folders = [safe_name(name, label) for label, name in enumerate(names)]
    assert len(set(folders)) == len(folders)
    for folder in folders:
        assert folder and "/" not in folder and "\0" not in folder and not folder.startswith(".")
        assert len(folder.encode()) <= NAME_BYTES + 10


def test_a_class_named_like_anothers_folder_has_its_own():
    assert safe_name("0000 a_b", 1) != safe_name("a/b", 0)
