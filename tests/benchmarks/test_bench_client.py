"""What the benchmark of the thin client makes of an installation."""

import sys
from pathlib import Path

from benchmarks.client import _sizes, sizes
from benchmarks.columns import client


def test_sizes_are_those_of_what_was_brought():
    before = {"pip": (10, 5)}
    measured = sizes(before, before | {"fglfast": (30, 2), "numpy": (60, 8)})
    assert (measured["distributions"], measured["bytes"], measured["bytecode_bytes"]) == (2, 90, 10)
    assert list(measured["bytes_by_distribution"]) == ["numpy", "fglfast"]
    assert client(measured)[1][0][3:] == ("–", "–", "–")
    assert client(measured | {"seconds": {"version": 0.5, "embed": 1.234, "inspect": 0.25}})[1][0][4] == "1.23 s"


def test_an_environments_files_and_bytecode_are_told_apart():
    files, bytecode = _sizes(Path(sys.executable))["numpy"]
    assert files > 10_000_000 and 0 <= bytecode < files
