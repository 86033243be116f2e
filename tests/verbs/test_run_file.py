"""Run files: what wins over what, what is refused, and that what is printed is read back."""

import tomllib

import pytest
from typer.testing import CliRunner

from fglfast.training import launch
from fglfast.training.results import TrainResult
from fglfast.training.settings import TrainSettings
from fglfast.verbs.app import app

run = CliRunner().invoke


@pytest.fixture
def train(monkeypatch, tmp_path):
    """`fglfast train` with a run file of some text; returns what it exits with, prints, and asks of the stage."""
    monkeypatch.chdir(tmp_path)
    asked = []

    def begin(data, out, settings, processes, track):
        asked.append((settings, processes, track))
        numbers = {"images": 1, "validation_images": 0, "epochs": 1, "steps": 1, "processes": 1, "parameters": 1}
        nothing = {"train_loss": 1, "val_loss": None, "val_accuracy": None, "seconds": 1, "images_per_second": 1}
        return TrainResult(model=out, history=(), **numbers, **nothing)

    def call(text, *options):
        (tmp_path / "run.toml").write_text(text)
        asked.clear()
        return run(app, ["train", "synth", "--out", "model", "--config", "run.toml", *options]), asked

    monkeypatch.setattr(launch, "train", begin)
    return call


FILE = 'epochs = 7\nflip = false\nlabel_smoothing = 0.0\noptimizer = "sgd"\nprocesses = 2\ntrack = "mlflow"\n'


def test_the_file_says_what_has_no_option_too(train):
    done, [(settings, processes, track)] = train(FILE)
    assert done.exit_code == 0, done.output
    assert settings == TrainSettings(epochs=7, flip=False, label_smoothing=0.0, optimizer="sgd")
    assert (processes, track) == (2, "mlflow")


def test_the_command_line_wins_even_with_the_default(train):
    default = TrainSettings().epochs
    done, [(settings, processes, _)] = train(FILE, "--epochs", str(default), "--processes", "0")
    assert done.exit_code == 0, done.output
    assert settings == TrainSettings(flip=False, label_smoothing=0.0, optimizer="sgd")
    assert processes == "auto"


def test_what_is_printed_is_read_back(train):
    printed, asked = train(FILE, "--batch-size", "64", "--print-config")
    assert printed.exit_code == 0 and not asked
    table = tomllib.loads(printed.stdout)
    assert (
        table["flip"] is False and table["batch_size"] == 64 and table["weight_decay"] == TrainSettings().weight_decay
    )
    done, [(settings, processes, track)] = train(printed.stdout)
    assert done.exit_code == 0 and (processes, track) == (2, "mlflow")
    assert settings == TrainSettings(epochs=7, flip=False, label_smoothing=0.0, optimizer="sgd", batch_size=64)


def test_a_run_file_is_no_json(train):
    refused, asked = train(FILE, "--print-config", "--json")
    assert refused.exit_code == 2 and "--print-config" in refused.output and not asked


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("epochs = 7\nlearningrate = 1.0", "learningrate"),
        ("erasing = 2.0", "erasing"),
        ("epochs = 0", "epochs"),
        ("dry_run = true", "dry_run"),
        ("epochs = 2.7", "epochs"),
        ("epochs = true", "epochs"),
        ('epochs = "7"', "epochs"),
        ("learning_rate = true", "learning_rate"),
        ("learning_rate = nan", "learning_rate"),
        ("processes = [1]", "processes"),
        ("processes = -1", "processes"),
        ("arch = 5", "arch"),
        ("out = 5", "out"),
        ("private = 1", "private"),
        ("track = 3", "track"),
        ('track = "nothing"', "track"),
        ('config = "run.toml"', "config"),
        ("epochs = ", "run.toml"),
    ],
)
def test_what_the_file_must_not_say_is_named(train, text, word):
    done, asked = train(text)
    assert done.exit_code == 4 and not asked
    assert word in done.stderr and "run.toml" in done.stderr and "Traceback" not in done.stderr


def test_a_file_that_is_not_there(train):
    done, asked = train("", "--config", "none.toml")
    assert done.exit_code == 4 and "none.toml" in done.stderr and not asked


SYNTHESIS = 'recipe = "mini-few"\nimages_per_class = 3\nallow_same_prompt = true\n[sampling]\nscheduler = "euler"\n'


@pytest.fixture
def synthesize(payload, tmp_path, monkeypatch):
    """The printed settings of `fglfast synthesize` with a run file of some text."""
    from fglfast.payload import save_payload

    save_payload(payload("ann", (1, 1, 1)), tmp_path / "ann.safetensors")
    monkeypatch.chdir(tmp_path)

    def call(text, *options):
        (tmp_path / "run.toml").write_text(text)
        asked = ["--embeddings", "ann.safetensors", "--out", "synth", "--config", "run.toml", "--print-config"]
        return run(app, ["synthesize", *asked, *options])

    return call


def test_synthesis_takes_its_sampling_from_the_file(synthesize):
    printed = synthesize(SYNTHESIS, "--steps", "9")
    assert printed.exit_code == 0, printed.output
    table = tomllib.loads(printed.stdout)
    assert (table["recipe"], table["images_per_class"], table["allow_same_prompt"]) == ("mini-few", 3, True)
    assert (table["sampling"]["scheduler"], table["sampling"]["steps"]) == ("euler", 9)
    assert synthesize(printed.stdout).stdout == printed.stdout


def test_a_batch_size_may_be_a_number_or_a_word(synthesize):
    for written in ("64", '"64"'):
        assert 'batch_size = "64"' in synthesize(f"batch_size = {written}\n").stdout
    assert 'until_gain = "0.2"' in synthesize("until_gain = 0.2\n").stdout


def test_a_whole_number_is_a_number_and_a_list_is_an_option_that_repeats(synthesize):
    printed = synthesize("guidance = 3\ntrusted_counts = ['ann']\n")
    assert printed.exit_code == 0, printed.output
    table = tomllib.loads(printed.stdout)
    assert table["sampling"]["guidance_scale"] == 3 and table["trusted_counts"] == ["ann"]


def test_who_is_allowed_is_printed_too(synthesize, payload, tmp_path):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from fglfast.payload import Signer, save_payload
    from fglfast.payload.keys import public_text

    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    save_payload(payload("ann", (1, 1, 1)), tmp_path / "ann.safetensors", Signer(key, "hospital"))
    (tmp_path / "allow.toml").write_text(f'federation = "hospital"\n[clients]\nann = "{public_text(key)}"\n')
    printed = synthesize("", "--allow", "allow.toml")
    assert printed.exit_code == 0 and tomllib.loads(printed.stdout)["allow"] == "allow.toml"
    assert synthesize(printed.stdout).stdout == printed.stdout


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("images = 3", "images"),
        ("[sampling]\nstep = 3", "step"),
        ("sampling = 3", "sampling"),
        ("engines = 3", "engines"),
        ("guidance = 51", "guidance"),
        ("guidance = nan", "guidance"),
        ("trusted_counts = 'ann'", "trusted_counts"),
        ("trusted_counts = ['ann', 3]", "trusted_counts"),
        ("allow_same_prompt = 'yes'", "allow_same_prompt"),
    ],
)
def test_synthesis_refuses_what_it_does_not_know(synthesize, text, word):
    done = synthesize(text)
    assert done.exit_code == 4 and word in done.stderr and "run.toml" in done.stderr
