"""How a worker ends, and what is said of it."""

from pathlib import Path

import pytest
import torch
from shard_samples import sample, write_synthetic, write_tar
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure, record
from training_runs import fails, settings_for

from fglfast.base.errors import BadInputError, ExitCode, FglError, MissingExtraError, UsageError
from fglfast.training import launch, worker
from fglfast.training.__main__ import work
from fglfast.training.launch import train
from fglfast.training.settings import Job, TrainSettings


def test_workers_error_keeps_its_kind(synthetic: Path, tiny_arch: str, tmp_path: Path) -> None:
    folder = write_synthetic(tmp_path / "synthetic", per_class=4, shards=1)
    bad = b"\x89PNG\r\n\x1a\n" + b"0" * 50
    write_tar(folder / "train-000000.tar", [member for n in range(12) for member in sample(n, bad, b"%d" % (n % 3))])
    with pytest.raises(BadInputError, match=r"train-000000\.tar: the image at byte") as caught:
        train(folder, tmp_path / "model", settings_for(tiny_arch, batch_size=4), 1)
    assert "run synthesize again" in caught.value.hint
    assert caught.value.exit_code == ExitCode.BAD_INPUT


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
    lacking = ModuleNotFoundError("No module named 'deepspeed'", name="deepspeed")
    told = launch._failure({0: died(tmp_path, 1, said=lacking)}, log, "")
    assert type(told) is MissingExtraError and "pip install" in told.hint


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
