"""Tars by their headers: those that `tarfile` writes, and what a stranger makes of them."""

import io
import tarfile
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fglfast.shards.headers import content, members

NAMES = st.from_regex(r"[a-z0-9_.]{1,90}", fullmatch=True)


def packed(files, form=tarfile.USTAR_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def unpacked(data):
    stream = io.BytesIO(data)
    return [(member.name, content(stream, member)) for member in members(stream)]


def with_field(data, start, value):
    """The first header with another field, and the checksum that fits it."""
    header = bytearray(data[:512])
    header[start : start + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data[512:]


@given(st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=5))
def test_what_tarfile_writes_is_read(files):
    assert unpacked(packed(files)) == files


@given(st.data())
def test_a_changed_tar_is_refused_or_read_within_itself(data):
    whole = bytearray(packed([("a.png", b"x" * 700), ("a.cls", b"1")]))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with suppress(tarfile.ReadError):
        assert sum(len(found) for _, found in unpacked(cut)) <= len(cut)


FILE = packed([("a.png", b"x" * 700)])


@pytest.mark.parametrize(
    ("start", "value"),
    [
        (124, b"\x80" + b"\0" * 6 + b"\xff" * 5),  # more than there is
        (124, b"\xff" * 10 + b"\xfe\0"),  # negative: `tarfile` of Python 3.11.7 goes round in circles
        (124, b"77777777777\0"),
        (156, tarfile.SYMTYPE),
        (156, tarfile.LNKTYPE),
        (156, tarfile.XHDTYPE),
        (156, tarfile.GNUTYPE_LONGNAME),
        (156, tarfile.GNUTYPE_SPARSE),
        (156, tarfile.FIFOTYPE),
        (156, tarfile.DIRTYPE),
        (0, "é.png".encode()),
    ],
)
def test_headers_of_no_plain_file_are_refused(start, value):
    with pytest.raises(tarfile.ReadError):
        unpacked(with_field(FILE, start, value))


@pytest.mark.parametrize("data", [b"", FILE[:100], FILE[:1000], FILE[:1536], b"\0" * 511])
def test_a_tar_without_an_end_is_refused(data):
    with pytest.raises(tarfile.ReadError):
        unpacked(data)


def test_extended_headers_are_refused():
    long = packed([("n" * 120, b"1")], tarfile.PAX_FORMAT)
    with pytest.raises(tarfile.ReadError):
        unpacked(long)
