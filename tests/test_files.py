import pytest

from fglfast.files import replacing, write_atomic


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x"
    write_atomic(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as stream:
        stream.write(b"new")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]
