"""What benchmarks find on their way is found once, and kept whole or not at all."""

import os

import pytest

from benchmarks.results_file import once
from fglfast.base.files import temporary_name


def test_what_is_found_once_is_kept(tmp_path):
    file = tmp_path / "a" / "one.json"
    assert once(file, lambda: {"bytes": 3}) == {"bytes": 3} == once(file, pytest.fail)


def test_what_an_earlier_call_left_is_read(tmp_path):
    (tmp_path / "one.json").write_text('{"seconds": 0.5}')  # without a last newline, as some wrote it
    assert once(tmp_path / "one.json", pytest.fail) == {"seconds": 0.5}


def test_a_killed_writer_leaves_nothing_half(tmp_path, monkeypatch):
    def killed(_):
        raise KeyboardInterrupt

    file = tmp_path / "one.json"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "fsync", killed)  # what was found is written, and not yet in its place
        once(file, lambda: [1, 2])
    assert list(tmp_path.iterdir()) == []
    temporary_name(file).write_text("[1,")  # what `kill -9` leaves
    assert once(file, lambda: [3]) == [3] and list(tmp_path.iterdir()) == [file]
