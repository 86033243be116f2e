"""What `--help` says: of every verb, option and argument; and that its defaults are those of the stages."""

import json
import re
from pathlib import Path

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

import fglfast
from fglfast.base.config import Settings
from fglfast.base.errors import UsageError
from fglfast.client.privacy import Budget
from fglfast.client.pseudo_labels import LabelSettings
from fglfast.client.settings import LearnSettings, RouteSettings
from fglfast.distill.distill import DistillSettings
from fglfast.generator.learning.make_inventory import InventorySettings
from fglfast.generator.learning.pretrain import PretrainSettings
from fglfast.lab.bench.measure import BenchSettings
from fglfast.lab.probe.probe import ProbeSettings
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.training.settings import TrainSettings
from fglfast.verbs.app import app
from fglfast.verbs.command import PANELS
from fglfast.verbs.documented import attribute, checked, option

ROOT = typer.main.get_command(app)
VERBS = ROOT.commands
PARAMETERS = [(verb, parameter) for verb, command in VERBS.items() for parameter in command.params]
RENAMED = {"tune-steps": "place-steps"}


def shown(*arguments):
    """A help text as a wide terminal shows it, without its frames."""
    done = CliRunner().invoke(app, [*arguments, "--help"], env={"COLUMNS": "250"})
    assert done.exit_code == 0, done.output
    return " ".join(re.sub("[│╭╮╰╯─]", " ", done.output).split())


@pytest.mark.parametrize(("verb", "parameter"), PARAMETERS, ids=lambda part: getattr(part, "name", part))
def test_every_option_and_argument_explains_itself(verb, parameter):
    assert len(parameter.help.split()) >= 3 and parameter.help[0].isupper()


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_parameter_is_shown(verb):
    text = shown(verb)
    for parameter in VERBS[verb].params:
        assert " ".join(parameter.help.split()) in text, parameter.name


def test_verbs_are_grouped_by_who_uses_them():
    text = shown()
    places = [text.index(f" {panel} ") for panel in PANELS]
    assert places == sorted(places)
    for name, command in VERBS.items():
        assert command.hidden == (name in RENAMED) == (f" {name} " not in text)
        assert command.rich_help_panel in PANELS and len(command.help.split()) >= 6
    assert text.index(" demo ") < text.index(" run ") < text.index(" audit ") < text.index(" Generators ")


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_still_works_and_says_the_new_one_on_stderr(old, new):
    asked = ["--embeddings", "no/*.safetensors", "--out", "x.toml", "--json"]
    first, second = (CliRunner().invoke(app, [name, *asked]) for name in (new, old))
    assert first.exit_code == second.exit_code == 4 and first.stdout == second.stdout
    assert new in second.stderr and old in second.stderr and second.stderr.endswith(first.stderr)


# Options whose settings class lies in a module that imports torch: repeated by the verb, and held to it here.
REPEATED = [
    *[
        ("synthesize", name, SynthesisSettings, name)
        for name in ("images_per_class", "seed", "shard_size", "image_format", "max_share_per_client")
    ],
    ("embed", "learn_steps", LearnSettings, "steps"),
    ("embed", "vectors", LearnSettings, "vectors"),
    ("embed", "route_steps", RouteSettings, "steps"),
    *[("inventory", name, InventorySettings, name) for name in ("adapters", "heads", "rank", "images", "steps")],
    *[("probe", name, ProbeSettings, name) for name in ("images", "seed", "prompt_level")],
    *[("bench", name, BenchSettings, name) for name in ("rounds", "longest_round", "arch")],
    *[("distill", name, DistillSettings, name) for name in ("method", "steps", "blocks", "pairs_per_class")],
    ("pretrain", "coupling", PretrainSettings, "coupling"),
    ("pretrain", "device", PretrainSettings, "device"),
]


def parameter(verb, name):
    return next(found for found in VERBS[verb].params if found.name == name)


@pytest.mark.parametrize(("verb", "name", "settings", "field"), REPEATED)
def test_a_verbs_default_is_that_of_its_stage(verb, name, settings, field):
    assert parameter(verb, name).default == settings.model_fields[field].get_default(call_default_factory=True)


def test_defaults_that_are_said_in_words_or_lie_deeper():
    assert float(parameter("embed", "delta").show_default) == Budget.model_fields["delta"].default
    assert int(parameter("embed", "uploads").show_default) == Budget.model_fields["uploads"].default
    assert float(parameter("embed", "confidence").show_default) == LabelSettings().confidence
    assert int(parameter("embed", "least_images").show_default) == LabelSettings().least_images
    assert parameter("embed", "captions").show_default == ProbeSettings().captions
    assert parameter("distill", "fit_steps").default == DistillSettings.model_fields["fit"].default.steps
    steps = {name: parameter("pretrain", f"{name}_steps").default for name in ("vae", "flow")}
    assert steps == {name: getattr(PretrainSettings(), name).steps for name in steps}


@pytest.mark.parametrize("verb", ["train", "tune", "demo"])
def test_options_of_a_settings_class_have_its_words_and_bounds(verb):
    epochs, side = parameter(verb, "epochs"), parameter(verb, "image_size")
    assert epochs.help == attribute(TrainSettings, "epochs") and side.help
    where = ["nowhere", "--out", "x"] if verb == "train" else []
    for name, bad in (("--epochs", "0"), ("--image-size", "7"), ("--image-size", "4097")):
        refused = CliRunner().invoke(app, [verb, *where, name, bad], env={"COLUMNS": "200"})
        assert refused.exit_code == 2 and f"{bad} is not in the range" in refused.output


def test_options_of_train_have_the_defaults_of_its_settings():
    for name in ("arch", "epochs", "batch_size", "learning_rate", "image_size", "deepspeed", "seed"):
        assert parameter("train", name).default == getattr(TrainSettings(), name)


class Some(Settings):
    """Settings.

    Attributes:
        size: of a thing,
            in metres.
        sizes: of others.

    """

    size: float = Field(1.0, ge=0.5, le=2)
    sizes: int = 3
    bare: float = Field(2.0, gt=1)


def test_an_attribute_is_read_whole_and_alone():
    assert attribute(Some, "size") == "Of a thing, in metres."
    assert attribute(Some, "sizes") == "Of others." and attribute(Some, "bare") == ""
    assert (option(Some, "size").min, option(Some, "size").max, option(Some, "sizes").min) == (0.5, 2, None)


def test_a_value_out_of_range_names_its_option():
    assert checked(Some, size=2).size == 2
    with pytest.raises(UsageError, match=r"--bare: .*1"):
        checked(Some, bare=1)
    for value in ("0", "inf", "nan"):
        done = CliRunner().invoke(app, ["train", "nowhere", "--out", "x", "--learning-rate", value])
        assert done.exit_code == 2 and "--learning-rate" in done.stderr and "bug" not in done.stderr


def test_settings_come_from_a_command_line_through_what_names_the_option():
    """Any other way, a value beyond the bounds of a class looks like a bug."""
    bare = re.compile(r"\b\w*Settings\((?=\s*\w)")
    files = list((Path(fglfast.__file__).parent / "verbs").glob("*.py"))
    assert files and [f"{file.name}: {found}" for file in files for found in bare.findall(file.read_text())] == []


@pytest.mark.parametrize(
    "verb", [verb for verb, parameter in PARAMETERS if parameter.name == "seed" and verb != "audit"]
)
def test_a_seed_that_pytorch_cannot_take_is_refused_at_once(verb):
    done = CliRunner().invoke(app, [verb, "--seed", str(1 << 63)])
    assert done.exit_code == 2 and "bug" not in done.stderr


def test_report_draws_the_page_of_a_demo_and_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr("fglfast.report.run_page.write_run_page", lambda folder: folder / "report.html")
    drawn = []
    monkeypatch.setattr("fglfast.report.arena_page.write_page", lambda arena, out: drawn.append((arena, out)))
    monkeypatch.setattr("fglfast.federation.arena.Arena.from_json", lambda path: path)
    (tmp_path / "run.json").write_text("{}")
    demo = CliRunner().invoke(app, ["report", str(tmp_path), "--json"])
    assert json.loads(demo.stdout) == {"report": str(tmp_path / "report.html")} and drawn == []
    (tmp_path / "run.json").rename(tmp_path / "arena.json")
    run = CliRunner().invoke(app, ["report", str(tmp_path), "--json"])
    assert json.loads(run.stdout) == {"report": str(tmp_path / "arena.html")}
    assert drawn == [(tmp_path / "arena.json", tmp_path / "arena.html")]


@pytest.mark.parametrize("name", ["run.json", "arena.json"])
def test_a_report_of_no_finished_run_is_refused(name, tmp_path):
    nothing = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert nothing.exit_code == 4 and "run.json" in nothing.stderr
    (tmp_path / name).write_text("{}")
    broken = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert broken.exit_code == 4 and name in broken.stderr
