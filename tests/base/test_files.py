import pytest

from fglfast.base.errors import UsageError
from fglfast.base.files import replacing, sole, temporary_name, usable_file, write_atomic, write_new


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x"
    write_atomic(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as stream:
        stream.write(b"new")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_a_second_run_is_kept_out_of_a_folder(tmp_path):
    out = tmp_path / "new" / "out"
    with sole(out), pytest.raises(UsageError, match=r"new.out: another run"), sole(out):
        pass
    with sole(out):
        pass


def test_a_disk_that_refuses_names_the_file_and_not_the_temporary_one(tmp_path):
    for error in (OSError(28, "No space left on device"), OSError(13, "No", str(temporary_name(tmp_path / "x")))):
        with pytest.raises(OSError, match=r"x'$") as caught, replacing(tmp_path / "x"):
            raise error
        assert caught.value.filename == str(tmp_path / "x")
    with pytest.raises(OSError, match=r"other'$"), replacing(tmp_path / "x"):
        raise OSError(2, "No such file", str(tmp_path / "other"))
    assert list(tmp_path.iterdir()) == []


def test_a_new_file_is_its_owners_alone_and_takes_no_others_place(tmp_path):
    write_new(tmp_path / "key", b"secret")
    assert (tmp_path / "key").read_bytes() == b"secret" and (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "key", b"another")
    assert (tmp_path / "key").read_bytes() == b"secret" and [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_command_writes_over_its_own_kind_alone(tmp_path):
    photo, table, payload = tmp_path / "0.png", tmp_path / "labels.csv", tmp_path / "a.safetensors"
    photo.write_bytes(b"\x89PNG\r\n\x1a\n")
    table.write_text("file_name,label\na.png,cat\n")
    payload.write_bytes(b"\2\0\0\0\0\0\0\0{}")
    recipe, page = tmp_path / "r.toml", tmp_path / "b.html"
    recipe.write_text("# placed\n\nsteps = 4\n")
    page.write_text("<!doctype html>")
    kinds = {"safetensors file": payload, "recipe": recipe, "HTML page": page}
    for kind, own in kinds.items():
        usable_file(own, kind)
        usable_file(tmp_path / "new", kind)
        for other in {photo, table, payload, recipe, page} - {own}:
            with pytest.raises(UsageError, match=f"no {kind}"):
                usable_file(other, kind)
    empty = tmp_path / "empty"
    empty.touch()
    usable_file(empty, "recipe")
