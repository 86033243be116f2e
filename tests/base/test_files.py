import pytest

from fglfast.base.errors import UsageError
from fglfast.base.files import finished_folder, replacing, sole, temporary_name, write_atomic, write_new
from fglfast.base.writable import usable_file


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
    with sole(out, "run.json"), pytest.raises(UsageError, match=r"new.out: another run"), sole(out, "run.json"):
        pass
    with sole(out, "run.json"):
        pass


def test_a_run_begins_in_no_folder_of_somebodys_own(tmp_path):
    (tmp_path / ".DS_Store").write_text("")
    with sole(tmp_path, "run.json", "models"):
        (tmp_path / "half.txt").write_text("")
    with pytest.raises(UsageError, match=r"holds other files, and no run\.json"), sole(tmp_path, "run.json", "models"):
        pass
    (tmp_path / "models").mkdir()
    with sole(tmp_path, "run.json", "models"):
        pass


def test_a_disk_that_refuses_names_the_file_and_not_the_temporary_one(tmp_path):
    for error in (OSError(28, "No space left on device"), OSError(13, "No", str(temporary_name(tmp_path / "x")))):
        with pytest.raises(OSError, match=r"x'$") as caught, replacing(tmp_path / "x"):
            raise error
        assert caught.value.filename == str(tmp_path / "x")
    with pytest.raises(OSError, match=r"other'$"), replacing(tmp_path / "x"):
        raise OSError(2, "No such file", str(tmp_path / "other"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("named", [(None,), ("a/b",), ("source", None, "a/b")])
def test_a_full_disk_names_the_folder_and_not_the_temporary_one(named, tmp_path):
    with pytest.raises(OSError, match="No space") as caught, finished_folder(tmp_path / "x") as unfinished:
        raise OSError(
            28, "No space left on device", *(str(unfinished / name) if name == "a/b" else name for name in named)
        )
    shown = caught.value.filename2 or caught.value.filename
    assert shown == str(tmp_path / "x" / (named[-1] or "")) and list(tmp_path.iterdir()) == []


def test_a_new_file_is_its_owners_alone_and_takes_no_others_place(tmp_path):
    write_new(tmp_path / "key", b"secret")
    assert (tmp_path / "key").read_bytes() == b"secret" and (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "key", b"another")
    assert (tmp_path / "key").read_bytes() == b"secret" and [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_command_writes_over_its_own_kind_alone(tmp_path):
    def header(text):
        return len(text).to_bytes(8, "little") + text.encode()

    own = {
        "payload": header('{"__metadata__":{"signature":"","fglfast":"{}"}}'),
        "inventory": header('{"__metadata__":{"fglfast-inventory":"{}"}}'),
        "recipe of fglfast": b"# Written by fglfast place-steps.\nsteps = 4\n",
        "page of fglfast": b"<!doctype html>\n<html>\n<title>fglfast bench: mini</title>",
        "picture of fglfast": b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0tEXtSoftware\0fglfast probe",
    }
    foreign = {
        "photo": b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR",
        "recipe": b"# mine\nsteps = 4\n",
        "table": b"file_name,label\na.png,cat\n",
        "weights": header('{"__metadata__":{"format":"pt"},"a":{}}'),
        "page": b"<!doctype html><title>mine</title>",
    }
    for name, content in (own | foreign).items():
        (tmp_path / name).write_bytes(content)
    for kind in own:
        usable_file(tmp_path / kind, kind)
        usable_file(tmp_path / "new", kind)
        for other in (own | foreign).keys() - {kind}:
            with pytest.raises(UsageError, match=f"no {kind}"):
                usable_file(tmp_path / other, kind)
    empty = tmp_path / "empty"
    empty.touch()
    usable_file(empty, "payload")
