import json
import unicodedata
from codecs import BOM_UTF8

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fglfast.images.folder_names import FILE, NAME_BYTES, folder_names, read_names, write_names

DECOMPOSED = "e\N{COMBINING ACUTE ACCENT}"
TEXTS = st.text(min_size=1, max_size=200)
NAMES = st.lists(TEXTS, min_size=1, max_size=6, unique=True)
COMPOSED = st.lists(TEXTS.map(lambda text: unicodedata.normalize("NFC", text)), min_size=1, max_size=6, unique=True)


@given(NAMES, st.booleans())
def test_folders_of_classes_are_names_and_never_shared(names, folds_case):
    folders = folder_names(names, folds_case)
    assert len({folder.casefold() if folds_case else folder for folder in folders}) == len(names)
    for folder in folders:
        assert folder and "/" not in folder and "\0" not in folder and not folder.startswith(".")
        assert len(folder.encode()) <= NAME_BYTES


@pytest.mark.parametrize(
    "name", ["Animals & Nature", "C++", "what?", "a:b", 'say "x"', "0001 x", "犬", "é", " x", "x.", "n" * 200, "CON"]
)
def test_a_name_that_a_folder_can_have_is_kept(tmp_path, name):
    assert folder_names(("a", name)) == ("a", name)
    (tmp_path / name).mkdir()
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "name",
    [
        "a/b",
        ".",
        "..",
        ".net",
        "__MACOSX",
        "Thumbs.db",
        FILE,
        "Labels.JSON",
        "犬" * 100,
        DECOMPOSED,
        "a\tb",
    ],
)
def test_a_name_that_no_folder_can_have_is_numbered(name):
    assert folder_names(("a", name))[1].startswith("0001")


def test_a_class_named_like_anothers_folder_keeps_its_name():
    assert folder_names(("a/b", "0000 a_b")) == ("0000 a_b_", "0000 a_b")
    assert folder_names(("Fox", "fox")) == ("Fox", "fox")
    assert folder_names(("Fox", "fox"), folds_case=True) == ("Fox", "0001 fox")


@given(COMPOSED)
def test_the_names_and_their_order_come_back(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("names")
    folders = folder_names(names)
    renamed = write_names(folder, folders, names)
    assert tuple(read_names(folder, folders).items()) == tuple(zip(folders, names, strict=True))
    assert (folder / FILE).exists() == (renamed > 0 or names != sorted(names))


@pytest.mark.parametrize(("said", "names"), [((DECOMPOSED, " b"), ("é", " b")), ((DECOMPOSED, "é"), (DECOMPOSED, "é"))])
def test_names_are_written_in_one_way_unless_two_would_be_one(tmp_path, said, names):
    (tmp_path / FILE).write_text(json.dumps(dict(zip("ab", said, strict=True))))
    assert tuple(read_names(tmp_path, ["a", "b"]).values()) == names


def test_names_that_an_editor_began_with_a_byte_order_mark_are_read(tmp_path, capsys):
    (tmp_path / FILE).write_bytes(BOM_UTF8 + json.dumps({"b": "bear", "a": "ant"}).encode())
    assert list(read_names(tmp_path, ["a", "b"]).items()) == [("b", "bear"), ("a", "ant")]
    assert "not used" not in capsys.readouterr().err
