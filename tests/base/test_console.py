"""How progress and tables are shown on a pipe and in a terminal."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table
from typer.testing import CliRunner

from fglfast.base import console
from fglfast.verbs import command, options
from fglfast.verbs.app import app


@pytest.mark.parametrize(("seconds", "pace"), [(0.5, "4.0 steps/s"), (10.0, "5.0 s/step")])
def test_a_slow_pace_is_in_seconds_a_step(seconds, pace, monkeypatch, capsys):
    now = iter((0.0, seconds))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    with console.Progress("fit", 2, unit="step") as progress:
        progress.advance(2)
    assert f"fit: 2/2  {pace}" in capsys.readouterr().err


def test_a_long_table_says_how_many_rows_are_left_out(capsys):
    console.print_table(Table("class"), [(f"[b]class {k}",) for k in range(1000)])
    said = capsys.readouterr().out
    assert "[b]class 19" in said and "class 20" not in said and said.splitlines()[-1].startswith("and 980 more")
    console.print_table(Table("class"), [("only",)])
    assert "more" not in capsys.readouterr().out


def test_a_split_is_no_emoji(capsys):
    console.complain("photos:train: no such data set")
    console.print_table(Table("split"), [(":train:",)])
    console.stdout.print(":train:")
    said = capsys.readouterr()
    assert said.err.startswith("photos:train: no") and said.out.count(":train:") == 2


@pytest.fixture
def speaker(monkeypatch):
    """A speaker of its own, and an environment that is put back."""
    for name in (console.LEVEL, *console.LOUD):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(console, "speaker", console.Speaker())
    monkeypatch.setattr(options, "speaker", console.speaker)
    return console.speaker


@pytest.mark.parametrize(("level", "notes"), [("error", 0), ("info", 1)])
def test_the_level_decides_whether_notes_are_said_and_children_hear_of_it(level, notes, speaker, capsys):
    console.set_level(level)
    console.note("a note")
    with console.Progress("draw", 4) as progress:
        progress.advance(4)
    console.complain("a complaint")
    said = capsys.readouterr().err
    assert (said.count("a note"), said.count("draw: 4/4"), said.count("a complaint")) == (notes, notes, 1)
    assert os.environ[console.LEVEL] == level and console.hushed()


def test_errors_are_said_at_any_level(speaker):
    asked = ["tune-steps", "--embeddings", "no/*.safetensors", "--out", "x.toml"]
    loud, quiet = (CliRunner().invoke(app, ["--log-level", level, *asked]) for level in ("info", "error"))
    assert loud.exit_code == quiet.exit_code == 4
    assert "is now" in loud.stderr and "is now" not in quiet.stderr and "error: " in quiet.stderr


def test_libraries_speak_at_the_last_level_and_bugs_show_their_traceback(speaker, monkeypatch):
    monkeypatch.setenv(console.LEVEL, "debug")  # as a child process finds it
    console.quiet_libraries()
    assert not console.hushed() and os.environ["TRANSFORMERS_VERBOSITY"] == "info"

    def broken() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        command.exits(broken)()


def fglfast(*words, **options):
    return subprocess.run([sys.executable, "-m", "fglfast", *words], check=False, text=True, **options)


@pytest.mark.parametrize("words", [("verify", "nowhere"), ("verify", "--nonsense"), ("--help",)])
def test_a_width_of_0_is_an_unknown_one(words):
    said, usual = (fglfast(*words, capture_output=True, env={**os.environ, "COLUMNS": width}) for width in ("0", "80"))
    assert (said.stdout, said.stderr) == (usual.stdout, usual.stderr) and said.stdout + said.stderr


def test_a_remark_that_cannot_be_written_costs_no_result():
    code = (
        "import sys; from fglfast import __main__; from fglfast.verbs import app\n"
        "from fglfast.base.console import emit_json, note\n"
        "def said(): note('a remark'); emit_json({'a': 1}); raise SystemExit(0)\n"
        "app.app = said; __main__.main()"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.PIPE, stderr=full)
    assert done.returncode == 0 and json.loads(done.stdout) == {"a": 1}


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_result_that_is_not_json_is_not_printed(number, capsys):
    with pytest.raises(ValueError, match="not JSON compliant"):
        console.emit_json({"ece": number})
    assert capsys.readouterr().out == ""
