"""What cannot end well is refused before an engine is built: folders that cannot be used, payloads of other models."""

import json
import os
from importlib import import_module

import numpy as np
import pytest
from typer.testing import CliRunner

from fglfast.images.dataset import read_dataset
from fglfast.payload import save_payload
from fglfast.verbs.app import app


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def folder(payload, random_mini, tmp_path, monkeypatch):
    """Payloads, a recipe, validation images; whoever begins to build an engine fails."""
    for module in ("pipeline.one_shot", "synthesis.foresight"):  # imported later, they would keep what is put there
        import_module(f"fglfast.{module}")
    monkeypatch.setattr("fglfast.engine.build.build_engine", lambda *_: pytest.fail("an engine was built"))
    made = payload("ann", (3, 0, 1))
    save_payload(made, tmp_path / "ann.safetensors")
    header = made.header.model_copy(update={"text_encoder": "0" * 64})
    save_payload(type(made)(**{**vars(made), "header": header}), tmp_path / "other.safetensors")
    text = f'model = "{random_mini}"\nbackend = "torch"\nimage_size = 32\n[sampling]\nscheduler = "flow-euler"\n'
    (tmp_path / "tiny.toml").write_text(text)
    images, names = read_dataset("fashion:private"), np.array(made.header.class_names)
    pixels = np.stack([images.pixels(index, 16) for index in range(40)])
    np.savez(tmp_path / "val.npz", images=pixels, labels=np.arange(40) % 3, class_names=names)
    (tmp_path / "file").write_text("in the way")
    return tmp_path


def arguments(verb, folder, out, payloads="ann.safetensors"):
    drawing = ["--embeddings", folder / payloads, "--recipe", folder / "tiny.toml", "--engines", folder / "engines"]
    more = {
        "embed": ["fashion:test"],
        "synthesize": drawing,
        "dry run": [*drawing, "--dry-run"],
        "distill": drawing,
        "tune": [*drawing, "--validation", folder / "val.npz", "--budget", 100, "--images-per-class", 100],
        "place-steps": drawing,
        "train": [folder],
        "pretrain": ["--data", "fashion:test"],
        "inventory": ["fashion:test"],
        "demo": [],
        "run": ["fashion"],
        "audit": ["nowhere"],
        "bench": ["--recipe", folder / "tiny.toml"],
    }
    return ["synthesize" if verb == "dry run" else verb, *more[verb], "--out", out]


DRAWING = ("synthesize", "dry run", "distill", "tune", "place-steps")
FILES = ("embed", "place-steps", "bench", "inventory")
FOLDERS = ("synthesize", "dry run", "distill", "tune", "train", "pretrain", "demo", "run", "audit")


@pytest.mark.parametrize("verb", [*FILES, *FOLDERS])
def test_an_out_that_cannot_be_made_is_refused_at_once(verb, folder):
    refused = run(*arguments(verb, folder, folder / "file" / "out"))
    assert refused.exit_code == 2 and str(folder / "file" / "out") in refused.output.replace("\n", ""), refused.output


@pytest.mark.parametrize("verb", [*FILES, *FOLDERS])
def test_an_out_of_the_wrong_kind_is_refused_at_once(verb, folder):
    (folder / "folder").mkdir()
    out = folder / ("folder" if verb in FILES else "file")
    refused = run(*arguments(verb, folder, out))
    assert refused.exit_code == 2 and str(out) in refused.output, refused.output


@pytest.mark.parametrize("verb", [*FILES, *FOLDERS])
def test_an_out_that_may_not_be_written_is_refused_at_once(verb, folder, monkeypatch):
    real = os.access
    monkeypatch.setattr("os.access", lambda path, mode: str(path) != str(folder / "mine") and real(path, mode))
    (folder / "mine").mkdir()
    refused = run(*arguments(verb, folder, folder / "mine" / "out"))
    assert refused.exit_code == 2 and str(folder / "mine") in refused.output, refused.output
    assert list((folder / "mine").iterdir()) == []


@pytest.mark.parametrize("verb", DRAWING)
def test_payloads_of_another_text_encoder_are_refused_before_an_engine_is_built(verb, folder):
    refused = run(*arguments(verb, folder, folder / "out", "other.safetensors"))
    assert refused.exit_code == 4 and "text encoder 0000000000000000" in refused.output, refused.output
    assert not (folder / "engines").exists()


def test_another_data_set_in_the_folder_is_refused_in_words(folder, engine, payload, monkeypatch):
    drawing = [*arguments("synthesize", folder, folder / "out"), "--images-per-class", 2, "--steps", 1]
    monkeypatch.undo()
    assert run(*drawing).exit_code == 0
    monkeypatch.setattr("fglfast.engine.build.build_engine", lambda *_: pytest.fail("an engine was built"))
    for dry in ((), ("--dry-run",)):
        changed = run(*drawing, "--seed", 1, "--images-per-class", 3, "--image-format", "webp", *dry)
        words = " ".join(changed.output.split())
        assert changed.exit_code == 2 and "seed 0 there, 1 here" in words, changed.output
        assert 'image format "png" there, "webp" here' in words
        fewer = run(*drawing, "--images-per-class", 3, *dry)
        words = " ".join(fewer.output.split())
        assert fewer.exit_code == 2 and "images per class 2 there, 3 here" in words and "--update" in words
    save_payload(payload("ann", (3, 0, 2)), folder / "ann.safetensors")
    save_payload(payload("bob", (1, 0, 0)), folder / "bob.safetensors")
    other = run(*drawing, "--embeddings", folder / "[ab]*n*.safetensors")
    assert other.exit_code == 2 and "another payload of ann" in other.output, other.output
    both = run(*drawing, "--embeddings", folder / "[ab][no][nb].safetensors")
    assert "payload of bob here only" in both.output


def test_a_dry_run_of_a_stop_rule_goes_on_as_the_run_does(folder, engine, monkeypatch):
    drawing = [*arguments("synthesize", folder, folder / "out"), "--steps", 1, "--json"]
    monkeypatch.undo()
    assert run(*drawing, "--images-per-class", 20).exit_code == 0
    (folder / "out" / "stopping.json").write_text("{}")  # the rule has begun
    rule = ("--until-gain", 1, "--pilot-images", 20, "--images-per-class", 60, "--dry-run")
    planned = run(*drawing, *rule)
    assert planned.exit_code == 0, planned.output
    assert json.loads(planned.stdout)["images_left"] == 80


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--clip", 1, "--epsilon", 2], "class-level prompts have none"),
        (["--clip", 1, "--epsilon", 2, "--learn"], "--learn adds no noise"),
        (["--clip", 1, "--prompt-level", "instance"], "add --epsilon"),
    ],
)
def test_a_clip_that_bounds_nothing_is_refused(folder, options, words):
    refused = run(*arguments("embed", folder, folder / "ann-2.safetensors"), *options)
    assert refused.exit_code == 2 and words in refused.output, refused.output
    assert not (folder / "ann-2.safetensors").exists()


@pytest.mark.parametrize("verb", ["distill", "tune", "pretrain", "demo", "run"])
def test_a_folder_of_somebodys_own_stays_as_it_is(verb, folder):
    own = folder / "own"
    for name in ("model", "work"):
        (own / name).mkdir(parents=True)
    refused = run(*arguments(verb, folder, own))
    assert refused.exit_code == 2 and "holds other files" in refused.output, refused.output
    assert {path.name for path in own.iterdir()} == {"model", "work"}


def test_an_audit_of_nothing_makes_no_folder(folder):
    assert run("audit", folder / "nowhere").exit_code == 4 and not (folder / "nowhere").exists()


def test_another_student_in_the_folder_is_refused_before_an_engine_is_built(folder):
    (folder / "out").mkdir()
    (folder / "out" / "distill.json").write_text(json.dumps({"method": "mdt", "engine": "e"}))
    refused = run(*arguments("distill", folder, folder / "out"))
    assert refused.exit_code == 4 and 'method "mdt" there, "reflow" here' in refused.output


def test_another_sweep_in_the_folder_is_refused_before_an_engine_is_built(folder):
    (folder / "out").mkdir()
    (folder / "out" / "sweep.json").write_text(json.dumps({"architecture": "resnet50", "engine": "e"}))
    refused = run(*arguments("tune", folder, folder / "out"))
    assert refused.exit_code == 4 and 'architecture "resnet50" there' in refused.output


def test_a_demonstration_with_other_settings_touches_nothing(folder):
    (folder / "out").mkdir()
    (folder / "out" / "demo.json").write_text('{"seed": 7}')
    refused = run("demo", "--out", folder / "out")
    assert refused.exit_code == 4 and "seed 7 there, 0 here" in refused.output
    assert not (folder / "out" / "clients").exists()


@pytest.mark.parametrize(("option", "typo"), [("--private", "fashion:privat"), ("--test", "tes"), ("--recipe", "min")])
def test_a_demonstration_of_what_is_not_there_claims_no_folder(option, typo, folder):
    assert run("demo", "--out", folder / "out", option, typo).exit_code == 4
    assert [path.name for path in (folder / "out").iterdir()] == [".lock"]
    again = run("demo", "--out", folder / "out", "--private", folder / "val.npz", "--test", folder / "none.npz")
    assert again.exit_code == 4 and "none.npz" in again.output, again.output


def test_repairing_with_another_model_is_refused_before_an_engine_is_built(folder, monkeypatch):
    drawing = [*arguments("synthesize", folder, folder / "out"), "--images-per-class", 2, "--steps", 1]
    monkeypatch.undo()
    assert run(*drawing).exit_code == 0
    (folder / "out" / "train-000000.tar").write_bytes(b"")
    monkeypatch.setattr("fglfast.engine.build.build_engine", lambda *_: pytest.fail("an engine was built"))
    asked = ["verify", folder / "out", "--embeddings", folder / "ann.safetensors", "--repair", "--model", "mini"]
    assert run(*asked).exit_code == 2
