"""Whole runs of training as tests start, signal and follow them."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import psutil

from fglfast.training.settings import Job, TrainSettings

EPOCHS = 6


def settings_for(arch: str, **changes: Any) -> TrainSettings:
    return TrainSettings(**{"arch": arch, "epochs": EPOCHS, "batch_size": 12, "flip": False, **changes})


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


def start(job: Job, processes: int = 1, stderr: int = subprocess.DEVNULL, **how: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", START, job.model_dump_json(), str(processes)]
    return subprocess.Popen(command, stderr=stderr, **how)


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


def tasks_of_srun(job: Job, tasks: int) -> list[subprocess.Popen[bytes]]:
    """The same command in every task, as srun starts it; nothing but Slurm's variables tells them of each other."""
    slurm = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "localhost"}
    count = {name: str(tasks) for name in ("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS")}
    started = []
    for number in map(str, range(tasks)):
        told = os.environ | slurm | count | {"SLURM_PROCID": number, "SLURM_LOCALID": number}
        started.append(start(job, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=told))
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


def fails(error: Exception) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail
