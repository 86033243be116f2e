"""An inventory from public images, by the verb."""

import json

import pytest
from typer.testing import CliRunner

from fglfast.base.errors import UsageError
from fglfast.generator.inventory import load_inventory
from fglfast.generator.learning.make_inventory import InventorySettings, make_inventory
from fglfast.generator.text import text_fingerprint
from fglfast.images.dataset import read_dataset
from fglfast.verbs.app import app

FEW = InventorySettings(adapters=2, heads=2, rank=1, images=2, steps=2, transformations=("unchanged", "inverted"))


@pytest.fixture
def public(of_three_classes):
    return of_three_classes


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_verb_leaves_a_file_that_says_what_it_is_for(public, random_mini, tmp_path):
    out, few = tmp_path / "a.safetensors", ("--adapters", 2, "--heads", 2, "--rank", 1, "--images", 2, "--steps", 2)
    asked = (public, "--out", out, "--model", random_mini, *few, "--transformations", "unchanged,inverted")
    first = run("inventory", *asked, "--json")
    assert first.exit_code == 0, first.output
    made, content = load_inventory(out, text_fingerprint(random_mini)), out.read_bytes()
    assert json.loads(first.stdout)["fingerprint"] == made.fingerprint()
    assert made.description.transformations == ("unchanged", "inverted") and made.bias.abs().sum() > 0
    out.unlink()
    assert run("inventory", *asked).exit_code == 0
    assert out.read_bytes() == content, "what is learned is not learned again"
    assert run("inventory", *asked[:-1], "unchanged,upside").exit_code == 2
    assert run("inventory", *asked[:-1], "unchanged,rotated").exit_code == 4, "the folder is another's"


def test_a_transformation_that_changes_nothing_is_left_out(public, random_mini, tmp_path, capsys):
    settings = FEW.model_copy(update={"transformations": ("unchanged", "other-colours", "inverted")})
    make_inventory(read_dataset(str(public)), random_mini, tmp_path / "state", settings)
    assert "other-colours" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"transformations": ("unchanged", "unchanged")}, "there once"),
        ({"transformations": ("unchanged",)}, "two transformations"),
        ({"heads": 7}, "heads: 7"),
    ],
)
def test_what_cannot_be_made_is_refused(changes, word, public, random_mini, tmp_path):
    with pytest.raises(UsageError, match=word):
        make_inventory(read_dataset(str(public)), random_mini, tmp_path / "state", FEW.model_copy(update=changes))
