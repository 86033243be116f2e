"""Bounds come before content: what is too large, too deep or too much is refused at once."""

import json
import os
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fglfast.base.config import Settings
from fglfast.base.console import visible
from fglfast.base.errors import BadInputError, FglError
from fglfast.base.untrusted import MOST_VALUES, json_object, loading, read_bytes, toml_table

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_what_json_says_is_what_is_read(value):
    assert json_object(json.dumps(value)) == value == json_object(json.dumps(value).encode())


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_nonsense_is_a_value_error_and_nothing_else(text):
    with suppress(ValueError):
        assert isinstance(json_object(text), dict)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "a": 1}', "twice"),
        ('{"a": {"b": 1, "b": 2}}', "twice"),
        ('{"a": NaN}', "NaN is not"),
        ('{"a": -Infinity}', "-Infinity is not"),
        ('{"a": 1e999}', "1e999"),
        ("[1]", "not a JSON object"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"a": [' + "[]," * MOST_VALUES + "1]}", "more than 300000 values"),
        ("{" + ",".join(f'"{number}": 1' for number in range(1001)) + "}", "more than 1000 keys"),
        ('{"a": ' + "1" * 5000 + "}", "4300 digits"),
    ],
)
def test_what_json_may_not_say(text, words):
    with pytest.raises(ValueError, match=words):
        json_object(text)


def test_infinities_are_read_where_diffusers_writes_them():
    assert json_object('{"lambda_min_clipped": -Infinity}', strict=False) == {"lambda_min_clipped": -float("inf")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a" + ".a" * 20_000 + " = 1", "too many dots"),
        ("a = " + "[" * 20_000, "nested too deeply"),
        ("a = 1\na = 2", "overwrite"),
        ("#" * (65 << 10), "larger than the 65536 bytes"),
    ],
)
def test_settings_that_would_take_a_minute_are_refused_at_once(text, words, tmp_path):
    (tmp_path / "r.toml").write_text(text)
    started = time.process_time()
    with pytest.raises(BadInputError, match=words):
        Settings.from_toml(tmp_path / "r.toml")
    assert time.process_time() - started < 20


def test_a_thousand_placed_timesteps_are_not_too_many_dots():
    line = "timesteps = [" + ", ".join(f"{1000 - number}.125" for number in range(1000)) + "]"
    assert len(toml_table(line)["timesteps"]) == 1000


def test_only_regular_files_of_a_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "four").write_bytes(b"1234")
    assert read_bytes(tmp_path / "four", 4) == b"1234"
    for path, most in ((tmp_path / "pipe", 9), (tmp_path, 9), (tmp_path / "four", 3)):
        with pytest.raises(BadInputError):
            read_bytes(path, most)
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(BadInputError):
        read_bytes(tmp_path / "zero", 1 << 40)


def test_what_a_library_raises_is_the_files_fault_and_what_the_machine_says_is_not():
    with pytest.raises(BadInputError, match="x: cannot be used \\(first\\)"), loading("x"):
        raise AttributeError("first\nsecond")
    with pytest.raises(MemoryError), loading("x"):
        raise MemoryError
    with pytest.raises(FglError, match="ours"), loading("x"):
        raise FglError("ours")


@given(st.text())
def test_nothing_that_is_shown_moves_or_hides(text):
    shown = visible(text)
    assert len(shown) == len(text) and visible(shown) == shown
    assert not set(shown) & set("\x1b\x9b\x07\r\b\u202e\u2066\ud800")


def test_ordinary_spelling_is_left_alone():
    for text in ("kočka", "pes 犬", "می‌خواهم", "क्‍ष", "a\tb\nc"):
        assert visible(text) == text


class Plain(Settings):
    name: str


class Outer(Settings):
    inner: dict[str, float]


def test_toml_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "r.toml").write_bytes(b'\xef\xbb\xbfname = "x"\n')
    assert Plain.from_toml(tmp_path / "r.toml").name == "x"


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_toml_may_hold_numbers_that_are_none_and_settings_do_not(tmp_path, value):
    (tmp_path / "r.toml").write_text(f"[inner]\nrate = {value}\n")
    with pytest.raises(BadInputError, match=r"r\.toml: inner\.rate: not a finite number"):
        Outer.from_toml(tmp_path / "r.toml")
