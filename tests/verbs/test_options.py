import pytest

from fglfast.base.errors import BadInputError
from fglfast.base.files import finished_folder
from fglfast.verbs.options import payload_files


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("run [1]/a[b].x", "run [1]/c.x", "run 1/d.x", "ab.x", "a[b].x", "[!a].x", "run *.x", ".hidden.x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("run [1]/c.x", ["run [1]/c.x"]),
        ("run [1]/*.x", ["run [1]/a[b].x", "run [1]/c.x"]),
        ("run [1]/[c].x", ["run [1]/c.x"]),
        ("run*/a[b].x", ["run [1]/a[b].x"]),
        ("run*/*.x", ["run 1/d.x", "run [1]/a[b].x", "run [1]/c.x"]),
        ("./a[b].x", ["a[b].x"]),
        ("a[bc].x", ["ab.x"]),
        ("[!a].x", ["[!a].x"]),
        ("run *.x", ["run *.x"]),
        ("*.x", ["[!a].x", "a[b].x", "ab.x", "run *.x"]),
    ],
)
def test_what_is_there_as_it_is_written_is_no_pattern(pattern, found, there):
    assert [str(path) for path in payload_files(pattern)] == found
    assert payload_files(str(there / pattern)) == [there / name for name in found]


@pytest.mark.parametrize("pattern", ["no/*.x", "run [2]/*.x", "a[b].x/*.x", "[", "**/no.x"])
def test_what_matches_nothing_is_said(pattern, there):
    with pytest.raises(BadInputError) as refused:
        payload_files(pattern)
    assert pattern in refused.value.message


def test_a_killed_writer_of_a_folder_with_brackets_leaves_nothing_for_ever(there):
    (there / ".run [1].building-x").mkdir()
    (there / ".run 1.building-x").mkdir()
    with finished_folder(there / "run [1]"):
        assert not (there / ".run [1].building-x").exists() and (there / ".run 1.building-x").exists()
