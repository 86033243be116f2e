"""Rows of a run in trackers: those of DeepSpeed's own, and stand-ins with the calls of wandb and MLflow."""

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fglfast.base.errors import MissingExtraError
from fglfast.training import tracking
from fglfast.training.launch import train
from fglfast.training.settings import TrainSettings
from fglfast.verbs.app import app

# Packages that keep what they are told; the calls have the names and the parameters of the real ones.
WANDB = """
import json, os
told = []
def init(project=None, group=None, entity=None): told.append([project, group, entity, os.environ["WANDB_MODE"]])
def log(data, step=None, commit=None): told.append([data, step])
def finish(exit_code=None):
    with open(os.environ["WANDB_DIR"] + "/told.json", "w") as file: json.dump(told, file)
class Settings: pass
"""
MLFLOW = """
import json
from contextlib import contextmanager
told = []
def set_tracking_uri(uri): told.append(uri)
def set_experiment(experiment_name=None): told.append(experiment_name)
def log_params(params): told.append(params)
def log_metrics(metrics, step=None): told.append([metrics, step])
@contextmanager
def start_run(run_id=None, experiment_id=None, run_name=None):
    yield
    with open(told[0].removeprefix("sqlite:///").replace("mlflow.db", "told.json"), "w") as file: json.dump(told, file)
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    def install(name: str, content: str) -> None:
        (tmp_path / "packages").mkdir()
        (tmp_path / "packages" / f"{name}.py").write_text(content)
        monkeypatch.syspath_prepend(tmp_path / "packages")
        for variable in ("WANDB_MODE", "WANDB_DIR", "MLFLOW_TRACKING_URI"):
            monkeypatch.delenv(variable, raising=False)

    yield install
    for name in ("wandb", "mlflow"):
        sys.modules.pop(name, None)


def run(synthetic: Path, arch: str, out: Path, track: Any = None, **settings: Any) -> list[Any]:
    result = train(synthetic, out, TrainSettings(arch=arch, epochs=2, batch_size=12, **settings), 1, track)
    return [row["train_loss"] for row in result.history]


def test_rows_go_where_the_users_deepspeed_file_says(synthetic: Path, tiny_arch: str, tmp_path: Path) -> None:
    section = {"enabled": True, "output_path": str(tmp_path), "job_name": "rows"}
    (tmp_path / "ds.json").write_text(json.dumps({"csv_monitor": section}))
    losses = run(synthetic, tiny_arch, tmp_path / "model", deepspeed=tmp_path / "ds.json")
    with (tmp_path / "rows" / "Epoch_train_loss.csv").open() as file:
        _, *rows = csv.reader(file)
    assert [(int(seen), float(loss)) for seen, loss in rows] == [(108 * (n + 1), loss) for n, loss in enumerate(losses)]


def test_wandb_is_told_offline(installed: Any, synthetic: Path, tiny_arch: str, tmp_path: Path) -> None:
    installed("wandb", WANDB)
    losses = run(synthetic, tiny_arch, tmp_path / "model", "wandb")
    begun, *rows = json.loads((tmp_path / "model" / "told.json").read_text())
    assert begun == ["fglfast", "model", None, "offline"]
    assert [data["Epoch/train_loss"] for data, _ in rows if "Epoch/train_loss" in data] == losses
    assert "WANDB_MODE" not in os.environ


def test_mlflow_is_told_in_a_file_of_the_run(installed: Any, synthetic: Path, tiny_arch: str, tmp_path: Path) -> None:
    installed("mlflow", MLFLOW)
    losses = run(synthetic, tiny_arch, tmp_path / "model", "mlflow")
    place, name, told, *rows = json.loads((tmp_path / "model" / "told.json").read_text())
    assert place == f"sqlite:///{tmp_path / 'model' / 'mlflow.db'}" and name == "fglfast"
    assert told["epochs"] == 2 and [metrics["Epoch/train_loss"] for metrics, _ in rows] == losses
    assert [step for _, step in rows] == [9, 18]
    settings = TrainSettings(arch=tiny_arch, epochs=2, batch_size=12)
    assert train(synthetic, tmp_path / "model", settings, 1).already_done  # a tracker makes no other run of it


def test_tensorboards_section_is_deepspeeds(tmp_path: Path) -> None:
    from deepspeed.monitor.config import get_monitor_config

    config = get_monitor_config(tracking.monitor_section("tensorboard", tmp_path))
    assert config.enabled and config.tensorboard.enabled
    assert (config.tensorboard.output_path, config.tensorboard.job_name) == (str(tmp_path), "tensorboard")


def test_a_tracker_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "wandb").mkdir()  # wandb leaves such a folder: it is no package
    for name in ("tensorboard", "wandb", "mlflow"):
        done = CliRunner().invoke(app, ["train", "synth", "--out", "model", "--track", name])
        assert done.exit_code == 3 and f"pip install {name}" in done.stderr
        with pytest.raises(MissingExtraError):
            tracking.check_tracker(name)
