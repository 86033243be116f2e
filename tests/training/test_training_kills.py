"""Runs in processes of their own: killed, without room, as tasks of Slurm."""

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from training_runs import (
    EPOCHS,
    history_of,
    settings_for,
    signalled,
    snapshot,
    start,
    start_and_signal,
    tasks_of_srun,
    wait_for,
    workers_of,
    workers_under,
)

from fglfast.base.errors import ExitCode
from fglfast.training import launch
from fglfast.training.launch import train
from fglfast.training.results import TrainResult
from fglfast.training.settings import Job


def test_killed_run_goes_on_to_the_same_weights(
    reference: TrainResult, synthetic: Path, tiny_arch: str, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    job = Job(synthetic=synthetic, out=out, settings=settings_for(tiny_arch, checkpoint_seconds=0.0))
    assert start_and_signal(job, signal.SIGKILL, from_epoch=1) == -signal.SIGKILL
    assert not (out / "model.safetensors").exists()
    assert start_and_signal(job, signal.SIGTERM, from_epoch=3) == ExitCode.INTERRUPTED
    assert workers_of(out) == []
    assert not (out / "model.safetensors").exists()
    result = train(synthetic, out, settings_for(tiny_arch), 1)
    assert not result.already_done
    assert (out / "model.safetensors").read_bytes() == (reference.model / "model.safetensors").read_bytes()
    compared = ("epoch", "step", "train_loss", "val_loss", "val_accuracy")
    assert [[row[key] for key in compared] for row in history_of(out)] == [
        [row[key] for key in compared] for row in history_of(reference.model)
    ]


def test_full_disk_at_a_checkpoint_is_one_clear_line(synthetic: Path, tiny_arch: str, tmp_path: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    command = [sys.executable, "-m", "fglfast", "train", str(synthetic), "--arch", tiny_arch, "--epochs", "1"]
    done = subprocess.run(
        [*command, "--batch-size", "12", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=small_files,
    )
    assert done.returncode == ExitCode.FAILURE and "bug" not in done.stderr and "Traceback" not in done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert str(tmp_path) in line and "cannot be written" in line and "disk space" in done.stderr
    assert not (tmp_path / "model.safetensors").exists() and not (tmp_path / "checkpoint" / "latest").exists()


def test_two_tasks_of_srun_train_one_model_and_two_workers_go_on_with_it(
    synthetic: Path, tiny_arch: str, tmp_path: Path
) -> None:
    theirs = {
        "train_batch_size": 12,
        "gradient_accumulation_steps": 2,
        "zero_optimization": {"stage": 1},
        "optimizer": {"type": "AdamW", "params": {"lr": 0.003}},
        "gradient_clipping": 1.0,
    }
    (tmp_path / "ds.json").write_text(json.dumps(theirs))
    settings = settings_for(tiny_arch, deepspeed=tmp_path / "ds.json", checkpoint_seconds=0.0)
    whole, copy = tmp_path / "whole", tmp_path / "copy"
    tasks = tasks_of_srun(Job(synthetic=synthetic, out=whole, settings=settings), 2)
    tag = snapshot(tasks[0], whole, copy)
    for task in tasks:
        assert task.wait(120) == 0, task.communicate()[1].decode()
    result = json.loads((whole / "train.json").read_text())["result"]
    assert (result["processes"], result["steps"]) == (2, EPOCHS * 9)
    assert result["train_loss"] < result["history"][0]["train_loss"]
    assert not list(tmp_path.glob("*/.decoded*")) and tag < f"epoch{EPOCHS:05d}"

    handlers = [signal.getsignal(number) for number in launch.LAUNCHER_SIGNALS]
    assert not train(synthetic, copy, settings, 2).already_done
    assert [signal.getsignal(number) for number in launch.LAUNCHER_SIGNALS] == handlers
    weights = [(folder / "model.safetensors").read_bytes() for folder in (whole, copy)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_the_end_of_the_launcher_ends_the_workers(number: int, synthetic: Path, tiny_arch: str, tmp_path: Path) -> None:
    process = start(Job(synthetic=synthetic, out=tmp_path / "model", settings=settings_for(tiny_arch)), processes=2)
    wait_for(process, lambda: len(workers_under(process)) == 2)
    status = signalled(process, number, workers_under(process))
    assert status == (ExitCode.INTERRUPTED if number == signal.SIGTERM else -number)
