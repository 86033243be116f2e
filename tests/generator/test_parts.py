"""What a generator is called."""

from pathlib import Path

import pytest

from fglfast.generator.parts import bundled, name_of


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("runs/satellites", "satellites"),
        ("runs/satellites/model", "satellites"),
        ("/model", "model"),
        ("hub/models--stabilityai--sd-turbo/snapshots/0123abc", "stabilityai/sd-turbo"),
    ],
)
def test_a_generator_is_called_as_its_folder(folder, name):
    assert name_of(Path(folder)) == name


def test_a_relative_folder_has_the_name_of_where_it_is(tmp_path, monkeypatch):
    (tmp_path / "satellites" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "satellites")
    assert name_of(Path("model")) == "satellites" and name_of(bundled("mini")) == "mini"
