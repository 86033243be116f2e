"""`embed --classes`: the federation's list instead of that which the images make."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fglfast.verbs.app import app


@pytest.fixture
def embed(random_mini, tmp_path):
    """Embed class folders of bags and dresses; gives the result, and how many images of each class it says."""
    for name in ("bag/1.png", "bag/2.png", "dress/1.png"):
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(tmp_path / "own" / name)
    out = tmp_path / "ann.safetensors"

    def run(*options):
        command = ["embed", tmp_path / "own", "--out", out, "--model", random_mini, *options]
        done = CliRunner().invoke(app, [str(word) for word in command])
        inspected = CliRunner().invoke(app, ["inspect", str(out), "--json"]).stdout if done.exit_code == 0 else "{}"
        return done, json.loads(inspected).get("images_by_class")

    return run


def test_a_client_that_lacks_classes_sends_the_federations_list(embed, tmp_path):
    (tmp_path / "classes.txt").write_text("t-shirt\ndress\nbag\n")
    assert embed("--classes", tmp_path / "classes.txt")[1] == {"t-shirt": 0, "dress": 1, "bag": 2}
    (tmp_path / "classes.txt").write_text("t-shirt\nbag\n")
    refused, _ = embed("--classes", tmp_path / "classes.txt")
    assert refused.exit_code == 4 and "dress" in refused.stderr


def test_noise_does_not_hide_a_list_that_the_images_make(embed, tmp_path):
    (tmp_path / "classes.txt").write_text("t-shirt\ndress\nbag\n")
    assert "--classes" in embed("--epsilon", "100")[0].stderr
    assert "--classes" not in embed("--epsilon", "100", "--classes", tmp_path / "classes.txt")[0].stderr
    assert "--classes" not in embed()[0].stderr
