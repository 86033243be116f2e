import csv
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


CUT_BY_SPLITLINES = "\u2028\u2029\x85\v\f\x1c\x1d\x1e"


@pytest.mark.parametrize("quoted", [True, False])
@pytest.mark.parametrize("letter", CUT_BY_SPLITLINES)
def test_a_line_ends_where_csv_says_so(folder, tmp_path, letter, quoted):
    caption = f"on{letter}a mat"
    rows = [("bag/1.png", caption), ("bag/2.png", caption), ("shoe/1.png", caption)]
    with (tmp_path / "c.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
        writer.writerows([("file_name", "caption"), *rows])
    (tmp_path / "c.json").write_text(json.dumps(dict(rows), ensure_ascii=False), encoding="utf-8")
    for name in ("c.csv", "c.json"):
        assert caption_all(folder, find_captioner(str(tmp_path / name), 32)) == ["on a mat"] * 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.csv", "file_name;caption\r\nbag\\1.png;a bag, open\r\nbag\\2.png;two\r\nshoe\\1.png;red\r\n;\r\n"),
        ("c.csv", "file_name, caption\nbag/1.png, 'a bag' open\n./bag/2.png, two\nshoe/1.png, red\n"),
        ("c.tsv", "caption\tfile_name\na bag, open\tbag/1.png\ntwo\t2.png\nred\tshoe/1.png\n"),
        ("c.txt", "file_name\tcaption\rbag/1.png\ta bag; open\rbag/2.png\ttwo\rshoe/1.png\tred\r"),
        ("c.json", '{"bag\\\\1.png": "a bag", "2.png": "two",\n "shoe/1.png": "red"}'),
        ("c.json", '[{"file_name": "bag/1.png", "caption": "a bag"}, {"file_name": "2.png", "text": "two"},\n'
         '{"file_name": "shoe/1.png", "caption": "red"}]'),
        ("c.jsonl", '{"bag/1.png": "a bag", "2.png": "two", "shoe/1.png": "red"}\n'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_captions_as_people_have_them(folder, tmp_path, name, content, mark):
    (tmp_path / name).write_bytes((mark + content).encode())
    found = caption_all(folder, find_captioner(str(tmp_path / name), 32))
    assert found[0].replace("'", "").startswith("a bag") and found[1:] == ["two", "red"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.csv", None, "cannot be read"),
        ("c.csv", "file_name,caption\nbag/1.png,a\n", "2 of 3 images have no caption: 2.png, shoe/1.png"),
        ("c.csv", "file_name,caption\n1.png,a\n2.png,b\n", "2 of 3 images have no caption: bag/1.png, shoe/1.png"),
        (
            "c.csv",
            "path,caption\nbag/1.png,a\n",
            "no column file_name; it names 'path', 'caption', separated by commas",
        ),
        ("c.csv", "pfad;text\nbag/1.png;a\n", "no column file_name; it names 'pfad', 'text', separated by semicolons"),
        ("c.csv", "bag/1.png\ta\n", "no column file_name and caption"),
        ("c.csv", "", "no column file_name and caption"),
        ("c.csv", "file_name,caption\n,a\n", "line 2: names no image"),
        ("c.csv", "file_name,caption\nbag/1.png,a bag, open\n", "line 2: more columns than the 2"),
        ("c.csv", 'file_name,caption\nbag/1.png,"a bag\nbag/2.png,b\n', "not CSV"),
        (
            "c.csv",
            "file_name,caption\nC:\\x\\1.png,a\n",
            "no caption: bag/1.png, 2.png, shoe/1.png; the file has captions",
        ),
        ("c.csv", "file_name,caption\nbag/1.png,\n", "line 2: bag/1.png has no caption"),
        ("c.csv", "file_name,caption\nbag/1.png,a\nbag/1.png,b\n", "line 3: bag/1.png is there twice"),
        ("c.jsonl", '{"file_name": "bag/1.png", "caption": 3}', "line 1: bag/1.png has no caption"),
        ("c.jsonl", "\n[1, 2]\n", "entry 1: not a JSON object"),
        ("c.jsonl", '{"file_name": "bag/1.png", "caption": "a"}\n[1, 2]\n', "line 2: not a JSON object"),
        ("c.json", '{"images": [1], "annotations": []}', "one JSON object of 'images', 'annotations'"),
        ("c.json", '[\n{"file_name": "bag/1.png"}\n}', "line 3"),
        ("c.json", '{"bag/1.png": "a", "bag/1.png": "b"}', "twice"),
        ("c.json", '[{"file_name": "bag/1.png"}]', "entry 1: bag/1.png has no caption"),
        ("c.jsonl", '{"file_name"', "line 1: not a JSON object"),
        (
            "c.json",
            '[{"file_name": "bag/1.png", "caption": ["a", "b"]}]',
            "entry 1: the caption of bag/1.png is a list",
        ),
        ("c.jsonl", '{"file_name": "bag/1.png", "caption": " ", "text": null}', "line 1: bag/1.png has no caption"),
        ("c.json", '{"bag/1.png": ["a", "b"], "2.png": ["c"]}', "its captions are lists"),
        ("c.csv", f"index,caption\n{'9' * 5000},a\n", "line 2: names no image"),
        (
            "c.jsonl",
            '{"file_name": "bag/1.png", "caption": "a"}\n{"file_name": "2.png", "caption": "bad \\ud83d"}',
            "c.jsonl: line 2: the caption of 2.png holds half a letter",
        ),
    ],
)
def test_what_is_missing_is_said_in_one_line(folder, tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(BadInputError) as refused:
        caption_all(folder, find_captioner(str(tmp_path / name), 32))
    assert words in refused.value.message and "\n" not in refused.value.message and refused.value.hint


@pytest.mark.parametrize("name", ["./none", "no/such/folder", "no such", "captions.tsv", "captions.json"])
def test_captions_that_are_nowhere_are_not_looked_for_on_the_hub(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError) as refused:
        find_captioner(name, 32)
    assert name in refused.value.message and "repo" not in refused.value.message.lower()


@pytest.mark.parametrize("name", ["caps.xlsx", "caps/cap.XLSX", "caps.parquet", "a/caps.ods", "caps.csv.gz"])
def test_a_file_of_an_ending_that_is_not_read_is_refused_without_the_hub(name, tmp_path, monkeypatch):
    def asked(model):
        raise AssertionError(f"the hub was asked for {model}")

    monkeypatch.setattr("fglfast.client.captions.is_hub_id", asked)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match="no such file") as refused:
        find_captioner(name, 32)
    assert name in refused.value.message and ".csv" in refused.value.hint
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"PK\x03\x04\xff")
    with pytest.raises(BadInputError, match="are not read") as refused:
        find_captioner(name, 32)
    assert name in refused.value.message and ".csv" in refused.value.hint


@pytest.mark.parametrize("name", ["blip-2.7b", "Salesforce/blip2-opt-2.7b", "org/model.v1", "owner/git.base"])
def test_a_hub_id_may_have_dots(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fglfast.client.captions.is_hub_id", lambda name: False)
    with pytest.raises(BadInputError, match="no such file or folder"):
        find_captioner(name, 32)


def test_the_column_that_has_words_is_taken(folder, tmp_path):
    (tmp_path / "c.csv").write_text("file_name,caption,text\nbag/1.png,,a\n2.png,b,\nshoe/1.png,c,other\n")
    assert caption_all(folder, find_captioner(str(tmp_path / "c.csv"), 32)) == ["a", "b", "c"]


def test_images_that_are_files_go_by_file_name_and_rows_by_index(folder, tmp_path):
    """As pandas writes a table after `reset_index`: the index counts the lines, or what was left of them."""
    (tmp_path / "c.csv").write_text("index,file_name,caption\n2,bag/1.png,a\n0,bag/2.png,b\n0,shoe/1.png,c\n")
    assert caption_all(folder, find_captioner(str(tmp_path / "c.csv"), 32)) == ["a", "b", "c"]
    rows = LabelledImages(("x",), np.zeros(2, np.int64), (), (), "t", ("row 0", "row 2"))
    (tmp_path / "r.csv").write_text("index,file_name,caption\n2,image.png,a\n0,image.png,b\n")
    assert caption_all(rows, find_captioner(str(tmp_path / "r.csv"), 32)) == ["b", "a"]
    with pytest.raises(BadInputError, match=r"line 4: row 0 is there twice"):
        caption_all(rows, find_captioner(str(tmp_path / "c.csv"), 32))


def test_captions_that_belong_to_no_image_are_counted(folder, tmp_path, capsys):
    lines = ["bag/1.png,a", "2.png,b", "shoe/1.png,c", *(f"cat/{number}.png,d" for number in range(50))]
    (tmp_path / "c.csv").write_text("\n".join(["file_name,caption", *lines]))
    caption_all(folder, find_captioner(str(tmp_path / "c.csv"), 32))
    said = [line for line in capsys.readouterr().err.splitlines() if "belong" in line]
    assert len(said) == 1 and "c.csv: 50 of its 53 captions belong to none of the 3 images: cat/0.png" in said[0]


def test_nothing_is_said_where_every_caption_belongs(folder, tmp_path, capsys):
    (tmp_path / "c.csv").write_text("file_name,caption\nbag/1.png,a\n2.png,b\nshoe/1.png,c\n")
    caption_all(folder, find_captioner(str(tmp_path / "c.csv"), 32))
    assert "belong" not in capsys.readouterr().err


@given(content=st.binary(max_size=80), kind=st.sampled_from(["c.csv", "c.json"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_bytes_are_refused_or_read(tmp_path, content, kind):
    (tmp_path / kind).write_bytes(content)
    try:
        find_captioner(str(tmp_path / kind), 32)
    except BadInputError as error:
        assert "\n" not in error.message
