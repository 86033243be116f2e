"""Whole runs: learning, two processes, kills, refusals. Few in processes of their own, as each start takes seconds."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import psutil
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure, record
from training_samples import CLASSES, encoded, picture, write_synthetic, write_tar
from transformers import pipeline

from fglfast.base.errors import BadInputError, ExitCode, FglError, UsageError
from fglfast.images.labelled import LabelledImages
from fglfast.shards.description import Description
from fglfast.training import fit, launch, worker
from fglfast.training.__main__ import work
from fglfast.training.card import card
from fglfast.training.evaluate import evaluate
from fglfast.training.launch import train
from fglfast.training.results import TrainResult
from fglfast.training.settings import Job, TrainSettings

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
        *("config.json", "preprocessor_config.json", "model.safetensors", "README.md", "prototypes.safetensors"),
        *("train.json", "history.jsonl", ".lock"),
    }
    rows = history_of(reference.model)
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    assert set(rows[0]) == {
        *("epoch", "step", "train_loss", "val_loss", "val_accuracy", "seconds", "images_per_second")
    }


def test_the_models_card_says_what_it_learned_from(reference: TrainResult) -> None:
    card = ModelCard.load(reference.model / "README.md")
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "image-classification"
    words = " ".join(card.text.split())
    assert "synthetic images alone" in words and "114 of 16x16 pixels" in words and "`tiny.json`" in words
    assert all(name in words for name in CLASSES) and f"{reference.val_accuracy:.1%} of 6 synthetic images" in words


def test_a_model_of_real_images_has_no_card_of_synthetic_ones(reference: TrainResult, tiny_arch: str) -> None:
    real = Description(plan="abc", class_names=CLASSES, images=120, shards=1, image_size=16)
    words = " ".join(card(reference, settings_for(tiny_arch), real, 16).split())
    assert "114 labelled images of 16x16 pixels" in words and "synthetic" not in words and "generator" not in words


def test_the_data_sets_own_folder_is_not_the_models(synthetic: Path, tiny_arch: str) -> None:
    before = {path.name for path in synthetic.iterdir()}
    with pytest.raises(UsageError, match="holds the data set"):
        train(synthetic, synthetic.parent / "." / synthetic.name, settings_for(tiny_arch), 1)
    assert {path.name for path in synthetic.iterdir()} == before


def test_one_class_alone_is_said(tmp_path: Path, tiny_arch: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_synthetic(tmp_path / "data", shards=1, images=16)
    members = []
    for key in range(16):
        content = {"png": encoded(picture(1, key)), "cls": b"1", "json": b"{}"}
        members += [(f"{key:09d}.{kind}", own) for kind, own in content.items()]
    write_tar(data / "train-000000.tar", members)
    train(data, tmp_path / "model", settings_for(tiny_arch))
    assert "all images are of 'green bars'" in capsys.readouterr().err


def test_finished_run_is_not_run_again(reference: TrainResult, synthetic: Path, tiny_arch: str) -> None:
    again = train(synthetic, reference.model, settings_for(tiny_arch, checkpoint_seconds=1.0), 1)
    assert again == reference.model_copy(update={"already_done": True})


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_diverges_leaves_no_model(synthetic: Path, tiny_arch: str, tmp_path: Path, processes: int) -> None:
    out, wild = tmp_path / "model", settings_for(tiny_arch, epochs=1, learning_rate=1e9)
    for _ in range(3 - processes):  # workers take seconds to start
        with pytest.raises(FglError, match="the loss is not a number in epoch 1") as caught:
            train(synthetic, out, wild, processes)
        assert caught.value.hint == "lower the learning rate" and not (out / "model.safetensors").exists()
        assert json.loads((out / "train.json").read_text())["result"] is None


def test_a_held_out_loss_that_is_no_number_ends_the_run(
    synthetic: Path, tiny_arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step's weights are used by no other loss."""
    monkeypatch.setattr(fit, "judge_rows", lambda *_: (float("nan"), 0))
    with pytest.raises(FglError, match="not a number in epoch 1"):
        train(synthetic, tmp_path / "model", settings_for(tiny_arch), 1)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_a_finished_run_without_its_model_is_not_done(
    reference: TrainResult, synthetic: Path, tiny_arch: str, tmp_path: Path, name: str
) -> None:
    out = shutil.copytree(reference.model, tmp_path / "model")
    (out / name).unlink()
    with pytest.raises(BadInputError, match=f"lacks {name}") as caught:
        train(synthetic, out, settings_for(tiny_arch), 1)
    assert "delete the folder" in caught.value.hint


def test_a_record_with_what_json_lacks_is_not_read(
    reference: TrainResult, synthetic: Path, tiny_arch: str, tmp_path: Path
) -> None:
    out = shutil.copytree(reference.model, tmp_path / "model")
    record = json.loads((out / "train.json").read_text())
    record["result"]["train_loss"] = float("nan")
    (out / "train.json").write_text(json.dumps(record))
    with pytest.raises(BadInputError, match="NaN is not a JSON number"):
        train(synthetic, out, settings_for(tiny_arch), 1)


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
import signal, sys
from fglfast.training.launch import train
from fglfast.training.settings import Job
signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command line has it
job = Job.model_validate_json(sys.argv[1])
try:
    train(job.synthetic, job.out, job.settings, int(sys.argv[2]))
except KeyboardInterrupt:
    sys.exit(130)
"""


def start(job: Job, processes: int = 1) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", START, job.model_dump_json(), str(processes)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def amid_an_epoch(out: Path, epoch: int, processes: int) -> bool:
    latest = out / "checkpoint" / "latest"
    tag = latest.read_text() if latest.exists() else ""
    return tag >= f"epoch{epoch:05d}-step0000002" and (processes > 1 or not tag.endswith("step0000000"))


def start_and_signal(job: Job, number: int, from_epoch: int, processes: int = 1) -> int:
    """Start the run, signal it amid an epoch, wait for the end of all its processes; returns the exit status."""
    process = start(job, processes)
    wait_for(process, lambda: amid_an_epoch(job.out, from_epoch, processes))
    workers = workers_under(process)
    assert len(workers) == (processes if processes > 1 else 0)
    return signalled(process, number, workers)


def wait_for(process: subprocess.Popen[bytes], done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None and not done():
        time.sleep(0.005)
    assert process.poll() is None and done(), "it ended before it could be killed"


def workers_under(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "fglfast.training" in child.cmdline()]


def signalled(process: subprocess.Popen[bytes], number: int, workers: list[psutil.Process]) -> int:
    """The exit status of a process that was sent a signal; its workers end too."""
    process.send_signal(number)
    status = process.wait(60)
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    return status


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


def tasks_of_srun(job: Job, tasks: int, environment: dict[str, str]) -> list[subprocess.Popen[bytes]]:
    """The same command in every task, as srun starts it; nothing but Slurm's variables tells them of each other."""
    slurm = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "localhost"}
    count = {name: str(tasks) for name in ("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS")}
    started = []
    for number in map(str, range(tasks)):
        told = environment | slurm | count | {"SLURM_PROCID": number, "SLURM_LOCALID": number}
        command = [sys.executable, "-c", START, job.model_dump_json(), "1"]
        started.append(subprocess.Popen(command, env=told, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE))
    return started


def snapshot(running: subprocess.Popen[bytes], out: Path, copy: Path) -> str:
    """What a kill would leave: the folder of a run, copied between two checkpoints; returns the newest."""
    wait_for(running, lambda: amid_an_epoch(out, 1, processes=2))
    for _ in range(100):
        shutil.rmtree(copy, ignore_errors=True)
        with suppress(OSError):  # it went on meanwhile
            shutil.copytree(out, copy)
            tag = (copy / "checkpoint" / "latest").read_text()
            if (copy / "checkpoint" / tag).is_dir() and not (copy / "model.safetensors").exists():
                return tag
    raise AssertionError("it ended before it could be copied")


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
    tasks = tasks_of_srun(Job(synthetic=synthetic, out=whole, settings=settings), 2, dict(os.environ))
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


def test_one_process_is_this_one_and_leaves_it_as_it_was(
    reference: TrainResult, synthetic: Path, tiny_arch: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Again in the same process, and in a thread of it: the same weights, and nothing of the run stays behind."""

    def state() -> tuple[object, ...]:
        draws = (torch.random.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())
        return *draws, dict(os.environ), torch.distributed.is_initialized(), torch.get_num_threads()

    weights, before = (reference.model / "model.safetensors").read_bytes(), state()
    others = psutil.Process().children()  # of tests before this one
    for number, run in enumerate((train, in_a_thread)):
        result = run(synthetic, tmp_path / str(number), settings_for(tiny_arch), 1)
        assert (result.model / "model.safetensors").read_bytes() == weights
        assert state() == before and psutil.Process().children() == others
    assert capfd.readouterr().out == ""


def in_a_thread(*arguments: Any) -> TrainResult:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(train, *arguments).result()


def test_a_process_group_of_the_caller_is_left_to_it(
    synthetic: Path, tiny_arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_run_workers", fails(FglError("in a process of its own")))
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        with pytest.raises(FglError, match="in a process of its own"):
            train(synthetic, tmp_path / "model", settings_for(tiny_arch), 1)
        assert torch.distributed.is_initialized()
    finally:
        torch.distributed.destroy_process_group()


def test_workers_error_keeps_its_kind(synthetic: Path, tiny_arch: str, tmp_path: Path) -> None:
    folder = write_synthetic(tmp_path / "synthetic", per_class=4, shards=1)
    good, bad = (folder / "train-000000.tar"), b"\x89PNG\r\n\x1a\n" + b"0" * 50
    kinds = (("png", lambda _: bad), ("cls", lambda n: b"%d" % (n % 3)), ("json", lambda _: b"{}"))
    write_tar(good, [(f"{n:09d}.{kind}", of(n)) for n in range(12) for kind, of in kinds])
    with pytest.raises(BadInputError, match=r"train-000000\.tar: the image at byte") as caught:
        train(folder, tmp_path / "model", settings_for(tiny_arch, batch_size=4), 1)
    assert "run synthesize again" in caught.value.hint
    assert caught.value.exit_code == ExitCode.BAD_INPUT


def test_a_readme_of_ones_own_stays(synthetic: Path, tiny_arch: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("my notes")
    with pytest.raises(UsageError, match=r"README\.md of its own"):
        train(synthetic, tmp_path, settings_for(tiny_arch), 1)
    assert (tmp_path / "README.md").read_text() == "my notes"


def test_what_is_known_to_be_wrong_starts_nothing(
    synthetic: Path, tiny_arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for start in ("_run_workers", "_run_alone"):
        monkeypatch.setattr(launch, start, lambda *_: pytest.fail("training was started"))
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


@pytest.mark.parametrize(("gpus", "batch"), [(2, 128), (3, 129), (6, 132), (7, 133)])
def test_a_batch_is_rounded_to_what_all_gpus_share(
    gpus: int, batch: int, synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    begun: list[tuple[int, int]] = []
    monkeypatch.setattr(launch, "_run_workers", lambda job, count: begun.append((count, job.settings.batch_size)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(FglError, match="without a result"):
        train(synthetic, tmp_path / "model", TrainSettings(), "auto")
    assert begun == [(gpus, batch)]
    assert (f"{batch} images" in capfd.readouterr().err) == (batch != 128)


def test_bfloat16_trains_other_weights(synthetic: Path, tiny_arch: str, tmp_path: Path) -> None:
    """DeepSpeed's autocast of torch, on a CPU too; the weights stay float32."""
    settings = settings_for(tiny_arch, epochs=2)
    halves = [settings.model_copy(update={"precision": precision}) for precision in ("bfloat16", "float32")]
    results = [train(synthetic, tmp_path / chosen.precision, chosen, 1) for chosen in halves]
    weights = [load_file(result.model / "model.safetensors") for result in results]
    assert all(w.dtype in (torch.float32, torch.int64) for w in weights[0].values())
    assert any(not torch.equal(w, weights[1][name]) for name, w in weights[0].items())
    assert results[0].train_loss == pytest.approx(results[1].train_loss, rel=0.2)


def died(folder: Path, exitcode: int, rank: int = 0, said: Exception | None = None) -> ProcessFailure:
    """A worker's end as torch's launcher tells it, with what the worker left in its error file."""
    file = folder / f"{rank}.json"
    if said:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
            patch.setattr(worker, "run_job", fails(said))
            job = Job(synthetic=folder, out=folder, settings=TrainSettings())
            (folder / "job.json").write_text(job.model_dump_json())
            with pytest.raises(FglError):
                record(work)(folder / "job.json")
    return ProcessFailure(rank, 4711, exitcode, str(file))


def fails(error: Exception) -> Callable[..., NoReturn]:
    def fail(*_: object) -> NoReturn:
        raise error

    return fail


@pytest.mark.parametrize("peer", [False, True], ids=["alone", "a peer saw the connection break"])
def test_a_killed_worker_is_told_from_one_that_failed(tmp_path: Path, peer: bool) -> None:
    log = tmp_path / "train.log"
    for number, name in ((9, "out of memory"), (11, "SIGSEGV")):
        failures = {0: died(tmp_path, -number), 2: died(tmp_path, -15, rank=2)}
        if peer:
            failures[1] = died(tmp_path, 1, rank=1, said=RuntimeError("Connection reset by peer"))
        error = launch._failure(failures, log, "what they said")
        assert name in error.message and "Connection" not in error.message and "run again" in error.hint
        assert f"Signal {number}" in log.read_text() and "what they said" in log.read_text()
        assert ("Connection reset by peer" in log.read_text()) == peer


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), MemoryError()], ids=repr
)
def test_a_process_without_memory_says_so(
    error: Exception, synthetic: Path, tiny_arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_worker = launch._failure({0: died(tmp_path, 1, said=error)}, tmp_path / "train.log", "")
    monkeypatch.setattr(worker, "start_engine", fails(error))
    with pytest.raises(FglError) as caught:
        train(synthetic, tmp_path / "model", settings_for(tiny_arch), 1)
    for told in (of_worker, caught.value):
        assert told.message == "out of memory" and "--batch-size" in told.hint


def test_a_workers_end_is_one_line(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    error = launch._failure({0: died(tmp_path, 1, said=ImportError("no such\nthing"))}, log, "words")
    assert error.message == "training failed: ImportError: thing"
    assert type(error) is FglError and "train.log" in error.hint
    assert "Traceback" in log.read_text() and "words" in log.read_text()
    silent = launch._failure({1: died(tmp_path, 3, rank=1)}, log, "words")
    assert "status 3" in silent.message and "train.log" in silent.hint
    told = launch._failure({2: died(tmp_path, 2, rank=2, said=UsageError("no: more", "yes"))}, log, "")
    assert (type(told), told.message, told.hint) == (UsageError, "no: more", "yes")


def test_a_workers_error_travels(
    synthetic: Path, tiny_arch: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One real launch that fails: nothing but the error is told, and it keeps its kind and its hint."""
    (tmp_path / "initial.safetensors").write_bytes(b"no weights")
    settings = settings_for(tiny_arch, initial=tmp_path / "initial.safetensors")
    with pytest.raises(BadInputError, match=r"initial\.safetensors does not hold") as caught:
        train(synthetic, tmp_path / "model", settings, 2)
    assert caught.value.hint == "give another file"
    said = capfd.readouterr()
    assert "Traceback" not in said.err and said.out == ""
