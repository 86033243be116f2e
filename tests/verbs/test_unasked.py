"""Options of work that is not asked for, and values that no option takes, are refused with their name."""

import pytest
from typer.testing import CliRunner

from fglfast.verbs.app import app

AUDIT = ("audit", "--model", "model", "--members", "a.npz", "--nonmembers", "b.npz")
INIT = ("federation", "init", "--host", "fl.example.org", "--clients", "ann,bob", "--out", "fed")


def refused(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 2 and "Traceback" not in done.output, done.output
    return " ".join(done.output.split())


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["recipe", "model", "backend", "precision", "image-size", "batch-size", "judge"])
@pytest.mark.parametrize("payloads", [(), ("--embeddings", "*.safetensors")])
def test_a_check_that_draws_nothing_takes_no_word_of_drawing(name, payloads):
    value = {"backend": "torch", "precision": "float32", "image-size": 64}.get(name, 8)
    assert f"--{name} is of drawing" in refused("verify", "synth", f"--{name}", value, *payloads)


@pytest.mark.parametrize("name", ["members", "nonmembers", "synthetic", "payload", "generator", "captions", "template"])
def test_an_audit_of_a_run_takes_no_word_of_a_model(name):
    assert f"--{name} is for" in refused("audit", "run", f"--{name}", "x")


@pytest.mark.parametrize(("name", "value"), [("seed", 0), ("methods", "fgl"), ("shadows", 8)])
def test_an_audit_of_a_model_takes_no_word_of_a_run(name, value):
    assert f"--{name} is for" in refused(*AUDIT, f"--{name}", value)


@pytest.mark.parametrize("name", ["generator", "captions", "template"])
def test_an_audit_without_a_payload_takes_no_word_of_one(name):
    assert f"--{name} is for" in refused(*AUDIT, f"--{name}", "mini")


def test_class_level_prompts_of_an_experiment_have_no_captions(tmp_path):
    assert "--captions" in refused("run", "fashion", "--captions", "attributes")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value"), [("--name", ""), ("--name", "a" * 300), ("--model", ""), ("--model", " ")]
)
def test_a_federation_has_a_name_and_a_model(option, value, tmp_path):
    assert option in refused(*INIT, option, value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value"), [("--guidance", "nan"), ("--guidance", "inf"), ("--guidance", 51), ("--steps", 1001)]
)
def test_sampling_out_of_range_names_its_option(option, value):
    assert option in refused("synthesize", "--embeddings", "x", "--out", "synth", option, value)


def test_a_budget_that_no_noise_is_found_for_names_its_option():
    options = ("--prompt-level", "instance", "--epsilon", "1e160")
    assert "--epsilon" in refused("embed", "fashion:test", "--out", "ann.safetensors", *options)
