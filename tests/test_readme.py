"""The guides' stages, run as they stand but with fewer images and epochs: first as commands, then from Python."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fglfast.engine.recipe import find_recipe
from fglfast.verbs.opening import asked_recipe

DOCS = Path(__file__).parent.parent / "docs"
FEWER = {
    "--images-per-class 500": "--images-per-class 16",
    "--arch resnet18-narrow --image-size 64 --epochs 30": "--arch resnet10-tiny --image-size 28 --epochs 1",
    "--recipe mini": "--recipe mini-few --backend openvino",
    "fglfast synthesize": "fglfast synthesize --recipe mini-few --backend openvino",
    "images_per_class=500": "images_per_class=16",
    'arch="resnet18-narrow", image_size=64, epochs=30': 'arch="resnet10-tiny", image_size=28, epochs=1',
    'find_recipe("mini")': 'find_recipe("mini-few").model_copy(update={"backend": "openvino"})',
}


def block(page, language, holding):
    blocks = re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.M)
    text = next(each for each in blocks if holding in each)
    for many, few in FEWER.items():
        text = text.replace(many, few)
    return text


def test_a_command_without_a_recipe_draws_by_the_guides_own():
    assert asked_recipe(None) == find_recipe("mini"), "what the guide's commands and its Python name is one data set"


@pytest.mark.timeout(900)  # seven processes start, and each imports for seconds
def test_the_stages_run_as_commands_and_then_from_python(tmp_path):
    def run(*arguments):
        done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    commands = [line for line in block("server.md", "bash", "fglfast evaluate").splitlines() if line[:8] == "fglfast "]
    assert len(commands) == 6
    said = [run("-m", *shlex.split(line)) for line in commands][-1]
    assert "accuracy" in said
    assert {path.name for path in (tmp_path / "model").iterdir()} >= {"model.safetensors", "config.json"}

    # The same stages again: what is there is found, payload, engine, shards and model.
    script = tmp_path / "stages.py"
    script.write_text(block("python.md", "python", "evaluate"), encoding="utf-8")
    assert "0 images drawn, 160 found, accuracy" in run(str(script))
