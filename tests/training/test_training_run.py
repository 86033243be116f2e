"""Whole runs in real processes: learning, two processes, kills, refusals. Few, as each start takes seconds."""

import json
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from training_samples import CLASSES, picture, write_synthetic, write_tar
from transformers import pipeline

from fglfast.base import errors
from fglfast.base.errors import BadInputError, ExitCode, FglError, UsageError
from fglfast.images.labelled import LabelledImages
from fglfast.training import launch
from fglfast.training.evaluate import evaluate
from fglfast.training.launch import train
from fglfast.training.settings import Job, TrainResult, TrainSettings

EPOCHS = 6


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small images on shared cores: more threads only wait for each other."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def settings_for(arch: str, **changes: Any) -> TrainSettings:
    return TrainSettings(**{"arch": arch, "epochs": EPOCHS, "batch_size": 12, "flip": False, **changes})


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, synthetic: Path, tiny_arch: str) -> TrainResult:
    """A run that nothing interrupts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        return train(synthetic, tmp_path_factory.mktemp("reference") / "model", settings_for(tiny_arch), 1)


def real_images() -> LabelledImages:
    """New pictures of the classes, in another order of classes."""
    labels = np.repeat(np.arange(3), 20)
    openers = [partial(Image.fromarray, picture(2 - label, 1000 + n)) for n, label in enumerate(labels.tolist())]
    return LabelledImages(CLASSES[::-1], labels, tuple(openers), (), "pictures")


def test_training_learns_and_is_plain_transformers(reference: TrainResult) -> None:
    assert (reference.images, reference.validation_images, reference.steps) == (114, 6, EPOCHS * 9)
    assert reference.val_accuracy is not None and reference.val_accuracy > 0.8
    assert reference.train_loss < reference.history[0]["train_loss"]
    assert evaluate(reference.model, real_images()).accuracy > 0.8
    answer = pipeline("image-classification", model=str(reference.model))(Image.fromarray(picture(1, 5000)))
    assert answer[0]["label"] == CLASSES[1]


def test_folder_holds_the_model_and_its_history(reference: TrainResult) -> None:
    names = {path.name for path in reference.model.iterdir()}
    assert names == {
        *("config.json", "preprocessor_config.json", "model.safetensors", "train.json", "history.jsonl", ".lock")
    }
    rows = history_of(reference.model)
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    assert set(rows[0]) == {
        *("epoch", "step", "train_loss", "val_loss", "val_accuracy", "seconds", "images_per_second")
    }


def test_finished_run_is_not_run_again(reference: TrainResult, synthetic: Path, tiny_arch: str) -> None:
    again = train(synthetic, reference.model, settings_for(tiny_arch, checkpoint_seconds=1.0), 1)
    assert again == reference.model_copy(update={"already_done": True})


def test_other_settings_or_data_are_refused(
    reference: TrainResult, synthetic: Path, tiny_arch: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"epochs 6 there, 7 here; seed 0 there, 3 here"):
        train(synthetic, reference.model, settings_for(tiny_arch, epochs=7, seed=3), 1)
    other = write_synthetic(tmp_path / "other", plan="cd" * 32)
    with pytest.raises(UsageError, match=r"another data\.plan"):
        train(other, reference.model, settings_for(tiny_arch), 1)


def history_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]


START = """
import sys
from pathlib import Path
from fglfast.training.launch import train
from fglfast.training.settings import Job
job = Job.model_validate_json(sys.argv[1])
train(job.synthetic, job.out, job.settings, 1)
"""


def start_and_signal(job: Job, number: int, from_epoch: int) -> int:
    """Start the run, signal it amid an epoch, wait for its workers' end; returns the exit status."""
    process = subprocess.Popen([sys.executable, "-c", START, job.model_dump_json()], stderr=subprocess.DEVNULL)
    latest, deadline = job.out / "checkpoint" / "latest", time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        tag = latest.read_text() if latest.exists() else ""
        if tag >= f"epoch{from_epoch:05d}-step0000002" and not tag.endswith("step0000000"):
            break
        time.sleep(0.005)
    assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(number)
    return process.wait(60)


def workers_of(out: Path) -> list[int]:
    """Processes of this machine that hold the folder's lock file open."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if entry.readlink() == out / ".lock":
                found.append(int(entry.parts[2]))
        except OSError:
            continue
    return found


def test_killed_run_goes_on_to_the_same_weights(
    reference: TrainResult, synthetic: Path, tiny_arch: str, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    job = Job(synthetic=synthetic, out=out, settings=settings_for(tiny_arch, checkpoint_seconds=0.0))
    assert start_and_signal(job, signal.SIGKILL, from_epoch=1) == -signal.SIGKILL
    assert not (out / "model.safetensors").exists()
    assert start_and_signal(job, signal.SIGTERM, from_epoch=3) != 0
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
    assert f"error: {tmp_path}: cannot be written" in done.stderr and "free space" in done.stderr
    assert not (tmp_path / "model.safetensors").exists() and not (tmp_path / "checkpoint" / "latest").exists()


def test_two_processes_with_a_users_deepspeed_file(synthetic: Path, tiny_arch: str, tmp_path: Path) -> None:
    theirs = {
        "train_batch_size": 12,
        "gradient_accumulation_steps": 2,
        "zero_optimization": {"stage": 1},
        "optimizer": {"type": "AdamW", "params": {"lr": 0.003}},
        "gradient_clipping": 1.0,
    }
    (tmp_path / "ds.json").write_text(json.dumps(theirs))
    settings = settings_for(tiny_arch, epochs=4, deepspeed=tmp_path / "ds.json", checkpoint_seconds=0.0)
    result = train(synthetic, tmp_path / "model", settings, 2)
    assert result.processes == 2 and result.steps == 36
    assert result.train_loss < result.history[0]["train_loss"]
    assert (tmp_path / "model" / "model.safetensors").exists()
    (tmp_path / "ds.json").write_text(json.dumps(theirs | {"train_batch_size": 24}))
    with pytest.raises(UsageError, match="train_batch_size 24, the settings make it 12"):
        train(synthetic, tmp_path / "other", settings, 2)


def test_workers_error_keeps_its_kind(synthetic: Path, tiny_arch: str, tmp_path: Path) -> None:
    folder = write_synthetic(tmp_path / "synthetic", per_class=4, shards=1)
    good, bad = (folder / "train-000000.tar"), b"\x89PNG\r\n\x1a\n" + b"0" * 50
    write_tar(good, [(f"{n}.{k}", c) for n in range(12) for k, c in (("png", bad), ("cls", b"%d" % (n % 3)))])
    with pytest.raises(BadInputError, match=r"train-000000\.tar: the image at byte") as caught:
        train(folder, tmp_path / "model", settings_for(tiny_arch, batch_size=4), 1)
    assert "run synthesize again" in caught.value.hint
    assert caught.value.exit_code == ExitCode.BAD_INPUT


def test_what_is_known_to_be_wrong_starts_nothing(
    synthetic: Path, tiny_arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_run_workers", lambda *_: pytest.fail("workers were started"))
    for settings, processes, words in [
        (settings_for("resnet19"), 1, "resnet19"),
        (settings_for(tiny_arch), 5, "cannot be divided into 5"),
        (settings_for(tiny_arch), 0, "0 training processes"),
    ]:
        with pytest.raises(UsageError, match=words):
            train(synthetic, tmp_path / "model", settings, processes)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="unknown origin"):
        train(synthetic, tmp_path / "theirs", settings_for(tiny_arch), 1)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(UsageError, match="not LOCAL_RANK, MASTER_ADDR, MASTER_PORT"):
        train(synthetic, tmp_path / "model", settings_for(tiny_arch), 1)


REPORT = b"""E1125 18:16:35.546000 1 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: %d) pid: 7
Root Cause (first observed failure):
  exitcode  : -15 (pid: 8)  (SIGTERM)
  traceback : %s
======================================================
"""


@pytest.mark.parametrize("peer", [False, True], ids=["alone", "a peer saw the connection break"])
def test_a_killed_worker_is_told_from_one_that_failed(tmp_path: Path, peer: bool) -> None:
    job = Job(synthetic=tmp_path, out=tmp_path, settings=TrainSettings())
    if peer:
        (tmp_path / "error.json").write_text('{"kind": "FglError", "message": "Connection reset by peer", "hint": ""}')
    for number, name in ((9, "out of memory"), (11, "SIGSEGV")):
        said = b"train: 5/10\n" + REPORT % (-number, b"Signal received by PID 7")
        error = launch._failure(job, tmp_path / "error.json", said, 1)
        assert name in error.message and "Connection" not in error.message and "run again" in error.hint
        assert (tmp_path / "train.log").read_bytes() == said


def test_a_worker_without_memory_says_so(tmp_path: Path) -> None:
    job = Job(synthetic=tmp_path, out=tmp_path, settings=TrainSettings())
    for words in (b"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.", b"MemoryError"):
        said = b"Traceback (most recent call last):\n  File x\n" + words + b"\n" + REPORT % (1, b"To enable traceback")
        error = launch._failure(job, tmp_path / "error.json", said, 1)
        assert error.message == "out of memory" and "--batch-size" in error.hint


def test_death_without_a_word_is_one_line(tmp_path: Path) -> None:
    job = Job(synthetic=tmp_path, out=tmp_path, settings=TrainSettings())
    said = b"train: 5/10\nTraceback (most recent call last):\n  File x\nImportError: no such thing\n=====\n"
    said += REPORT % (1, b"To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html")
    error = launch._failure(job, tmp_path / "error.json", said, 1)
    assert error.message == "a training process ended (status 1): ImportError: no such thing"
    assert type(error) is FglError and "train.log" in error.hint
    assert (tmp_path / "train.log").read_bytes() == said
    (tmp_path / "error.json").write_text('{"kind": "UsageError", "message": "no", "hint": "yes"}')
    told = launch._failure(job, tmp_path / "error.json", said, 2)
    assert (type(told), told.message, told.hint) == (errors.UsageError, "no", "yes")
