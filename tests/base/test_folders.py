import os
from pathlib import Path

import pytest

from fglfast.base.errors import BadInputError
from fglfast.base.folders import files_below, is_system, leads_out, numbered, subfolders
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


@pytest.mark.parametrize(
    "name", [".DS_Store", "._0.png", "Thumbs.db", "THUMBS.DB", "__MACOSX", "desktop.ini", "@eaDir"]
)
def test_what_systems_leave_is_known(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / "cat").mkdir()
    (tmp_path / "file").touch()
    assert is_system(name) and subfolders(tmp_path) == [tmp_path / "cat"]
    assert subfolders(tmp_path / "file") == subfolders(tmp_path / "none") == []


def test_files_below_hold_links_to_folders_and_follow_none(tmp_path):
    inside = tmp_path / "inside"
    for path in (inside / "deep" / "b", inside / "a", inside / ".git" / "c", tmp_path / "pool" / "d"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (inside / "deep" / "more").symlink_to(tmp_path / "pool")
    (inside / "deep" / "round").symlink_to(inside)
    names = [str(path.relative_to(inside)) for path in files_below(inside, inside)]
    assert names == ["a", "deep/b", "deep/more", "deep/round"]


def test_a_folder_that_cannot_be_read_is_refused_unless_it_is_a_systems(tmp_path, monkeypatch):
    scandir = os.scandir

    def locked(path):
        if Path(path).name in {"locked", "lost+found"}:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    (tmp_path / "lost+found").mkdir()
    monkeypatch.setattr(os, "scandir", locked)
    assert files_below(tmp_path, tmp_path) == []
    (tmp_path / "cat" / "locked").mkdir(parents=True)
    with pytest.raises(BadInputError, match="cat/locked: this folder cannot be read"):
        files_below(tmp_path, tmp_path)
