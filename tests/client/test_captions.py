import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fglfast.base.errors import BadInputError
from fglfast.client.captions import caption_all, find_captioner
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import LabelledImages


@pytest.fixture
def folder(tmp_path):
    for name in ("bag/1.png", "bag/2.png", "shoe/1.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "data" / name)
    return read_dataset(str(tmp_path / "data"))


def lines(path, *entries):
    path.write_text("\n".join(json.dumps(entry) for entry in entries), encoding="utf-8")
    return str(path)


def test_measured_attributes_are_the_default_words(folder):
    assert caption_all(folder, find_captioner("attributes", 32)) == ["dark plain square"] * 3


def test_captions_by_file_name_in_json_lines(folder, tmp_path):
    path = lines(
        tmp_path / "c.jsonl",
        {"file_name": "shoe/1.png", "caption": "red\n  shoe"},
        {"file_name": "bag/1.png", "text": "a bag"},
        {"file_name": "2.png", "caption": "two bags", "more": 1},
        {"file_name": "elsewhere.png", "caption": "not asked for"},
    )
    assert caption_all(folder, find_captioner(path, 32)) == ["a bag", "two bags", "red shoe"]


def test_captions_by_row_in_csv(tmp_path):
    table = LabelledImages(("x",), np.zeros(2, np.int64), (), (), "t", ("row 0", "row 2"))
    path = tmp_path / "c.csv"
    path.write_text('\ufeffindex,caption\r\n2,"a bag, open"\r\n0,"two\nlines"\r\n', encoding="utf-8")
    assert caption_all(table, find_captioner(str(path), 32)) == ["two lines", "a bag, open"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.csv", None, "cannot be read"),
        ("c.csv", "file_name,caption\nbag/1.png,a\n", "2 of 3 images have no caption: 2.png, shoe/1.png"),
        ("c.csv", "file_name,caption\n1.png,a\n2.png,b\n", "2 of 3 images have no caption: bag/1.png, shoe/1.png"),
        ("c.csv", "path,caption\nbag/1.png,a\n", "line 2: names no image"),
        ("c.csv", "file_name,caption\nbag/1.png,\n", "line 2: bag/1.png has no caption"),
        ("c.csv", "file_name,caption\nbag/1.png,a\nbag/1.png,b\n", "line 3: bag/1.png is there twice"),
        ("c.jsonl", '{"file_name": "bag/1.png", "caption": 3}', "line 1: bag/1.png has no caption"),
        ("c.jsonl", "\n[1, 2]\n", "line 2: not a JSON object"),
        ("c.jsonl", '{"file_name"', "line 1: not a JSON object"),
    ],
)
def test_what_is_missing_is_said_in_one_line(folder, tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(BadInputError) as refused:
        caption_all(folder, find_captioner(str(tmp_path / name), 32))
    assert words in refused.value.message and "\n" not in refused.value.message and refused.value.hint


@given(content=st.binary(max_size=80), kind=st.sampled_from(["c.csv", "c.jsonl"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_bytes_are_refused_or_read(tmp_path, content, kind):
    (tmp_path / kind).write_bytes(content)
    try:
        find_captioner(str(tmp_path / kind), 32)
    except BadInputError as error:
        assert "\n" not in error.message
