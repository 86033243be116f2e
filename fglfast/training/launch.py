"""Start the training processes and see them through: torch's launcher, or this process. Knows no training."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Literal

from fglfast.base import errors
from fglfast.base.errors import FglError, UsageError
from fglfast.base.files import usable_folder
from fglfast.base.limits import as_limit
from fglfast.shards.description import read_description
from fglfast.training.run_folder import RunFolder, identity
from fglfast.training.settings import Job, TrainResult, TrainSettings, WorkerError, check_arch, deepspeed_config

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# From the first line that looks like this on, workers only say how they died.
DYING = re.compile(rb"^(Traceback \(most recent call last\)|[EF]\d{4} \d\d:\d\d)", re.MULTILINE)
SIGNAL = re.compile(rb"exitcode *: -([0-9]+)")  # as torch's launcher writes it
LAUNCHER = re.compile(rb"^[EFW]\d{4} [^\n]*torch/distributed/elastic", re.MULTILINE)
GO_ON = "run again to go on from the last checkpoint"
KEPT_OUTPUT = 2**20


def train(synthetic: Path, out: Path, settings: TrainSettings, processes: int | Literal["auto"]) -> TrainResult:
    """Train the global model on a synthetic data set; run again, it goes on from its checkpoint.

    Under torchrun or another launcher that sets RANK and WORLD_SIZE, this process is one of the workers;
    otherwise the workers are started here, on this machine.

    Args:
        synthetic: folder of shards with `dataset.json`.
        out: folder of the model, made if missing.
        settings: how to train.
        processes: workers to start; "auto" for one a GPU, or one without GPUs.

    Raises:
        UsageError: settings that contradict each other, or `out` belongs to another run.
        BadInputError, IncompleteError: the synthetic data set cannot be used as it is.
        FglError: a worker failed.
        KeyboardInterrupt: SIGINT or SIGTERM came; the workers are gone.
    """
    job = Job(synthetic=synthetic.absolute(), out=out.absolute(), settings=_absolute(settings))
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _run_here(job)
    usable_folder(job.out)
    run = identity(job, read_description(job.synthetic))
    folder = RunFolder(job.out)
    done = folder.result_of(run)
    if done:
        return done
    count = _count(processes)
    check_arch(job.settings.arch)
    deepspeed_config(job.settings, count, bf16=False)
    job.out.mkdir(parents=True, exist_ok=True)
    _run_workers(job, count)
    result = folder.result_of(run)
    if result is None:
        raise FglError(f"the workers ended without a result in {job.out}", f"See {job.out / 'train.log'}.")
    return result.model_copy(update={"already_done": False})


def _absolute(settings: TrainSettings) -> TrainSettings:
    """The same settings with paths that hold in any working directory."""
    changes: dict[str, object] = {}
    if settings.arch.endswith(".json"):
        changes["arch"] = str(Path(settings.arch).absolute())
    for name in ("deepspeed", "initial"):
        if getattr(settings, name) is not None:
            changes[name] = getattr(settings, name).absolute()
    return settings.model_copy(update=changes)


def _run_here(job: Job) -> TrainResult:
    missing = [name for name in TORCHRUN if name not in os.environ]
    if missing:
        raise UsageError(
            f"RANK and WORLD_SIZE are set, but not {', '.join(missing)}",
            "Start with torchrun, or set them all, or unset RANK and WORLD_SIZE to let the workers be started here.",
        )
    from contextlib import redirect_stdout

    from fglfast.training.loop import run_worker

    with redirect_stdout(sys.stderr):
        return run_worker(job)


def _count(processes: int | Literal["auto"]) -> int:
    import torch

    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if processes == "auto":
        return max(1, devices)
    if processes < 1 or (devices and processes > devices):
        limit = f"between 1 and {devices}, the number of GPUs" if devices else "1 or more"
        raise UsageError(f"{processes} training processes", f"It must be {limit}.")
    return processes


def _run_workers(job: Job, count: int) -> None:
    (job.out / "train.log").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="fglfast-train-") as temporary:
        job_file, error_file = Path(temporary) / "job.json", Path(temporary) / "error.json"
        job_file.write_text(job.model_dump_json(), encoding="utf-8")
        # The workers hold the other end of standard input: when this process dies, they notice.
        with subprocess.Popen(
            _command(job_file, count),
            env=_environment(count),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as launcher:
            assert launcher.stderr is not None
            output = _Output(launcher.stderr)
            with _forwarded_signals(launcher) as received:
                status = launcher.wait()
            output.join(5.0)
        if received:
            raise KeyboardInterrupt
        if status:
            raise _failure(job, error_file, output.kept, status)


def _command(job_file: Path, count: int) -> list[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", str(count)),
        *("--master-addr", "127.0.0.1", "--master-port", str(port), "--local-addr", "127.0.0.1"),
        *("-m", "fglfast.training", str(job_file)),
    ]


def _environment(count: int) -> dict[str, str]:
    environment = dict(os.environ)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // count)))
    package = str(Path(errors.__file__).parents[2])
    environment["PYTHONSAFEPATH"] = "1"  # nor is the working folder a place to find fglfast in
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")]))
    if sys.platform == "linux":
        # All workers are on this machine: gloo need not look its name up.
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if sys.stderr.isatty():
        # Their stderr is a pipe that ends in this terminal: the progress bar may draw.
        size = os.get_terminal_size(sys.stderr.fileno())
        environment |= {"TTY_COMPATIBLE": "1", "COLUMNS": str(size.columns), "LINES": str(size.lines)}
    return environment


class _Output(threading.Thread):
    """Passes the workers' stderr on until they begin to die, and keeps the end of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self.stream, self.kept = stream, b""
        self.start()

    def run(self) -> None:
        passing = True
        while chunk := os.read(self.stream.fileno(), 65536):
            self.kept = (self.kept + chunk)[-KEPT_OUTPUT:]
            if passing:
                dying = DYING.search(chunk)
                passing = dying is None
                sys.stderr.write(chunk[: dying.start() if dying else None].decode("utf-8", "replace"))
                sys.stderr.flush()


@contextmanager
def _forwarded_signals(launcher: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """While the workers run, SIGINT and SIGTERM end them; which came is in the list."""
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        launcher.send_signal(signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _failure(job: Job, error_file: Path, output: bytes, status: int) -> FglError:
    """The error to raise for workers that failed: their own, what killed one, or the last thing they said."""
    log, told = job.out / "train.log", None
    if error_file.exists():
        answer = WorkerError.model_validate_json(error_file.read_bytes())
        told = getattr(errors, answer.kind, FglError)(answer.message, answer.hint)
    if told and type(told) is not FglError:
        return told
    # A worker whose peer was killed says that the connection broke: that is not what went wrong.
    error = _killed(output) or told or _last_words(output, status)
    with suppress(OSError):  # the disk may be full: then that is what they died of
        log.write_bytes(output)
    return FglError(error.message, error.hint or f"All they said is in {log}; {GO_ON}.")


def _killed(output: bytes) -> FglError | None:
    """What a signal that ended a worker means, as torch's launcher reports it; its own signals aside."""
    numbers = {int(number) for number in SIGNAL.findall(output)} - {signal.SIGTERM, signal.SIGINT}
    if signal.SIGKILL in numbers:
        hint = f"give a smaller --batch-size or fewer --processes, or end other programs; {GO_ON}"
        return FglError("a training process was killed (SIGKILL): most likely the machine is out of memory", hint)
    names = [signal.Signals(number).name for number in sorted(numbers)]
    return FglError(f"a training process died of {', '.join(names)}") if names else None


def _last_words(output: bytes, status: int) -> FglError:
    """The last line that workers said, before torch's launcher said that they are gone."""
    lines = [line.strip() for line in LAUNCHER.split(output)[0].decode("utf-8", "replace").splitlines()]
    said = [line for line in lines if not DYING.match(line.encode()) and not set(line) <= set("=-~^ ")]
    last = said[-1] if said else "it said nothing"
    return as_limit(RuntimeError(last)) or FglError(f"a training process ended (status {status}): {last}")
