"""The README's commands, run as they stand but with fewer images and epochs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import typer
from typer.testing import CliRunner

from fglfast.verbs.app import app

README = Path(__file__).parent.parent / "README.md"
FEWER = {
    "--images-per-class 500": "--images-per-class 16",
    "--arch resnet18-narrow --image-size 64 --epochs 30": "--arch resnet10-tiny --image-size 28 --epochs 1",
}


def commands():
    blocks = re.findall(r"```bash\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    stages = next(block for block in blocks if "fglfast embed" in block)
    return [line for line in stages.splitlines() if line.startswith("fglfast ")]


def test_the_stage_by_stage_commands_run_in_order(tmp_path):
    assert len(commands()) == 6
    for line in commands():
        for many, few in FEWER.items():
            line = line.replace(many, few)
        line = line.replace("--recipe mini", "--recipe mini --backend openvino")
        line = line.replace("synthesize ", "synthesize --backend openvino ")
        done = subprocess.run(
            [sys.executable, "-m", *shlex.split(line)], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
    assert {path.name for path in (tmp_path / "model").iterdir()} >= {"model.safetensors", "config.json"}


def test_every_verb_and_option_the_readme_names_exists():
    group = typer.main.get_command(app)
    text = re.sub(r"`python -m benchmarks[^`]*`", "", README.read_text(encoding="utf-8"))
    options = {option for command in group.commands.values() for param in command.params for option in param.opts}
    foreign = {"--standalone", "--nproc-per-node", "--ntasks", "--gpus-per-task"}  # of torchrun and srun
    flower = set(re.findall(r"(?<![\w-])--[a-z-]+", re.search(r"```bash\nflower-superlink.*?```", text, re.DOTALL)[0]))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - foreign - flower
    assert named <= options | {"--help"}, named - options
    for verb in re.findall(r"`fglfast ([a-z-]+)", text):
        assert verb in group.commands, verb
        assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0
