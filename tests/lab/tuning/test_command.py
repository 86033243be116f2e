"""The command with a small model and one real training."""

import json
import shlex

import numpy as np
import pytest
from typer.testing import CliRunner

from fglfast.client.embed import embed
from fglfast.images.dataset import read_dataset
from fglfast.payload import save_payload
from fglfast.verbs.app import app


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(random_mini, tmp_path_factory):
    """A payload, validation images and a recipe."""
    folder, dataset = tmp_path_factory.mktemp("tune"), read_dataset("fashion:private")
    save_payload(embed(dataset.select(np.arange(12)), "ann", random_mini), folder / "ann.safetensors")
    pixels = np.stack([dataset.pixels(index, 16) for index in range(40)])
    np.savez(folder / "val.npz", images=pixels, labels=dataset.labels[:40], class_names=dataset.class_names)
    np.savez(folder / "strange.npz", images=pixels, labels=dataset.labels[:40])
    recipe = f'model = "{random_mini}"\nbackend = "torch"\nimage_size = 32\n[sampling]\nscheduler = "flow-euler"\n'
    (folder / "tiny.toml").write_text(recipe)
    return folder


def tune(folder, *more, judges="val.npz"):
    base = ["--embeddings", folder / "ann.safetensors", "--recipe", folder / "tiny.toml", "--out", folder / "out"]
    small = ["--arch", "resnet10-tiny", "--epochs", 1, "--image-size", 16, "--engines", folder / "engines"]
    lists = ["--steps", "1", "--guidance", "1", "--guidance", "2", "--interval", "0.2:0.3", "--images-per-class", "24"]
    return run("tune", *base, *small, *lists, "--validation", folder / judges, *more)


def test_from_payloads_to_a_recipe_that_draws(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = tune(folder, "--budget", 500, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["winner"] == "steps1-guidance1-images24" and len(found["trials"]) == 1  # no step lies in the interval
    measured = found["trials"][0]["measured"]
    assert 0 < measured["epoch_seconds"] < measured["training_seconds"] and measured["synthesis_seconds"] > 0
    assert {path.name for path in (folder / "out").iterdir() if path.name[0] != "."} == {
        *(
            "candidates",
            "generator.json",
            "pareto.png",
            "recipe.toml",
            "row.seconds",
            "sweep.json",
            "tune.html",
            "tune.json",
        )
    }
    finished = next((folder / "out" / "candidates").iterdir())
    before = finished.stat().st_mtime_ns
    again = tune(folder, "--budget", 500)
    assert again.exit_code == 0 and finished.stat().st_mtime_ns == before
    assert (
        "1 steps, unguided, 24 images a class" in again.stdout and f"draw with it: {found['command']}" in again.stdout
    )
    drawn = run(*shlex.split(found["command"])[1:], "--engines", folder / "engines")
    assert drawn.exit_code == 0, drawn.output
    assert json.loads((folder / "synth" / "dataset.json").read_text())["sampling"]["scheduler"] == "flow-euler"
    for changes, code, word in (
        (["--seed", 1], 4, "training.seed 0 there, 1 here"),
        (["--budget", 0.01], 2, "below the"),
    ):
        refused = tune(folder, "--budget", 500, *changes)
        assert refused.exit_code == code and word in refused.output


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        (["--budget", "0"], 2, "--budget 0"),
        (["--budget", "nan"], 2, "--budget nan"),
        (["--budget", "9", "--steps", "x"], 2, "steps"),
        (["--budget", "9", "--images-per-class", "1"], 2, "raise --images-per-class"),
        (["--budget", "9", "--interval", "0.9:0.1"], 2, "0.9:0.1"),
        (["--budget", "9", "--arch", "none"], 2, "none"),
        (["--budget", "9", "--recipe", "none"], 4, "none"),
    ],
)
def test_bad_options_get_one_line_and_the_exit_code(folder, options, code, word):
    refused = tune(folder, *options)
    assert refused.exit_code == code, refused.output
    assert word in refused.output and "Traceback" not in refused.output


def test_validation_images_of_other_classes_are_refused(folder):
    refused = tune(folder, "--budget", 9, judges="strange.npz")
    assert refused.exit_code == 4 and "differ in classes" in refused.output and "engine" not in refused.output
