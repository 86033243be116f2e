import pytest

from fglfast.base.errors import FglError
from fglfast.generator.made import made_folders, made_once


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("FGLFAST_MODELS", str(tmp_path / "made"))
    (tmp_path / "a").write_text("a")
    return tmp_path


def test_what_is_made_depends_on_the_files_and_on_what_is_asked(kept):
    calls = []

    def make(folder):
        calls.append(folder)
        (folder / "x").write_text("x")

    def ask(what):
        return made_once("some", what, [kept / "a"], make)

    first = ask("this")
    assert ask("this") == first and len(calls) == 1 and (first / "x").read_text() == "x"
    assert ask("that") != first and len(calls) == 2
    (kept / "a").write_text("b")
    assert ask("this") != first and len(calls) == 3


def test_a_failure_leaves_no_folder(kept):
    def fail(folder):
        (folder / "half").write_text("x")
        raise ValueError

    with pytest.raises(ValueError):
        made_once("some", "this", [kept / "a"], fail)
    assert not list((kept / "made").glob("some*"))


def test_a_place_that_cannot_be_written_is_named_with_the_variable(kept, monkeypatch):
    monkeypatch.setenv("FGLFAST_MODELS", str(kept / "a" / "made"))
    with pytest.raises(FglError) as refused:
        made_once("some", "this", [kept / "a"], lambda _: None)
    assert str(kept / "a") in refused.value.message and "FGLFAST_MODELS" in refused.value.hint
    assert refused.value.exit_code == 2


def test_they_are_kept_in_the_users_cache_unless_told_otherwise(kept, monkeypatch):
    monkeypatch.delenv("FGLFAST_MODELS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))
    assert made_folders() == kept / "fglfast" / "models"
