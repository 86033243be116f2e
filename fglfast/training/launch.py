"""Start a training run: in this process, or in several that torch's launcher sees through."""

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fglfast.base import errors
from fglfast.base.console import note
from fglfast.base.errors import FglError, UsageError
from fglfast.base.limits import as_limit
from fglfast.base.machine import cores
from fglfast.base.ranks import Rank, find_rank, meeting
from fglfast.base.writable import usable_folder
from fglfast.shards.description import read_description
from fglfast.training.deepspeed_file import deepspeed_config, divisible
from fglfast.training.results import TrainResult
from fglfast.training.run_folder import RunFolder, identity
from fglfast.training.settings import Job, Tracker, TrainSettings, check_arch
from fglfast.training.tracking import check_tracker

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    from fglfast.training.world import Join

    Failures = dict[int, ProcessFailure]

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
LAUNCHER_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)  # that torch's launcher takes
GO_ON = "run again to go on from the last checkpoint"


def train(
    synthetic: Path | str,
    out: Path | str,
    settings: TrainSettings,
    processes: int | Literal["auto"] = "auto",
    track: Tracker | None = None,
) -> TrainResult:
    """Train the global model on a synthetic data set; run again, it goes on from its checkpoint.

    Under srun, torchrun or another launcher that sets RANK and WORLD_SIZE, this process is one of the workers;
    otherwise it does the work of one itself, and has several started on this machine.

    Args:
        synthetic: folder of shards with `dataset.json`.
        out: folder of the model, made if missing.
        settings: how to train.
        processes: how many train; "auto" for one a GPU, or one without GPUs, and a batch that they can share.
        track: where the rows of its history go too.

    Raises:
        UsageError: settings that contradict each other, or `out` belongs to another run.
        MissingExtraError: the tracker's package is not installed.
        BadInputError, IncompleteError: the synthetic data set cannot be used as it is.
        FglError: the machine refused something, or a worker failed.
        KeyboardInterrupt: SIGINT came, or SIGTERM and there were workers; those are gone.
    """
    check_tracker(track)
    synthetic, out = Path(synthetic).absolute(), Path(out).absolute()
    job = Job(synthetic=synthetic, out=out, settings=_absolute(settings), track=track)
    if job.out.resolve() == job.synthetic.resolve():
        raise UsageError(f"{out}: holds the data set, whose card the model's would replace", "choose another --out")
    rank = find_rank()
    if "RANK" in os.environ or rank.world_size > 1:
        return _run_launched(job, rank)
    usable_folder(job.out)
    description = read_description(job.synthetic)
    if processes == "auto":
        job = job.model_copy(update={"settings": _shared_out(job.settings, _count(processes))})
    run = identity(job, description)
    folder = RunFolder(job.out)
    if done := folder.result_of(run):
        folder.discard_checkpoints()  # there are some if it was killed when it had just finished
        return done
    count = _count(processes)
    check_arch(job.settings.arch)
    deepspeed_config(job.settings, count, bf16=False)
    import torch

    if count == 1 and not torch.distributed.is_initialized():  # somebody else's process group would be in the way
        from fglfast.training.world import alone

        return _run_here(job, alone)
    job.out.mkdir(parents=True, exist_ok=True)
    _run_workers(job, count)
    result = folder.result_of(run)
    if result is None:
        raise FglError(f"the workers ended without a result in {job.out}", f"see {job.out / 'train.log'}")
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


def _shared_out(settings: TrainSettings, count: int) -> TrainSettings:
    """The settings with a batch that so many processes can share: on three GPUs 129 images in the place of 128."""
    fitting = divisible(settings, count) if count > 1 else settings
    if fitting != settings:
        batch, asked = fitting.batch_size, settings.batch_size
        note(f"a batch of {batch} images, not {asked}: {count} processes share it; --batch-size chooses another")
    return fitting


def _run_launched(job: Job, rank: Rank) -> TrainResult:
    from fglfast.training.world import environment, launched

    with environment(**({} if "RANK" in os.environ else meeting(rank))):
        missing = [name for name in TORCHRUN if name not in os.environ]
        if missing:
            raise UsageError(
                f"RANK and WORLD_SIZE are set, but not {', '.join(missing)}",
                "start with torchrun, or set them all, or unset RANK and WORLD_SIZE to let workers be started here",
            )
        return _run_here(job, launched)


def _run_here(job: Job, join: "Join") -> TrainResult:
    """Do a worker's part in this process."""
    from fglfast.training.worker import run_job

    try:
        with redirect_stdout(sys.stderr):  # DeepSpeed prints
            return run_job(job, join)
    except FglError:
        raise
    except Exception as error:
        if limit := as_limit(error, str(job.out)):
            raise limit from error
        raise


def _count(processes: int | Literal["auto"]) -> int:
    import torch

    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if processes == "auto":
        return max(1, devices)
    if processes < 1 or (devices and processes > devices):
        limit = f"between 1 and {devices}, the number of GPUs" if devices else "1 or more"
        raise UsageError(f"{processes} training processes", f"it must be {limit}")
    return processes


def _run_workers(job: Job, count: int) -> None:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from fglfast.training.world import environment

    log = job.out / "train.log"
    log.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="fglfast-train-") as folder:
        job_file = Path(folder) / "job.json"
        job_file.write_text(job.model_dump_json(), encoding="utf-8")
        # The first one's progress is seen as it is drawn: torch's `tee` would pass on whole lines, each with a prefix.
        streams = {rank: Std.ALL if rank else Std.OUT for rank in range(count)}
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            run_id="fglfast",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder, redirects=streams),
        )
        # A program, not a function: that would import its caller's script once more in each worker.
        workers = elastic_launch(config, sys.executable)
        try:
            with environment(**_environment(count)), _signals_kept(), _silence():
                workers("-P", "-m", "fglfast.training", str(job_file), str(os.getpid()))
        except ChildFailedError as error:
            raise _failure(error.failures, log, _said(Path(folder))) from None


def _environment(count: int) -> dict[str, str]:
    """What workers are to find: their share of the cores, and this very package, wherever the caller has it from."""
    from fglfast.training.world import loopback

    package = str(Path(errors.__file__).parents[2])
    return loopback() | {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores() // count))),
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        "TORCHELASTIC_SIGNALS_TO_HANDLE": "",  # the launcher sets it and leaves it there
    }


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Give back the handlers that torch's launcher takes, and raise its exception as everybody else does.

    The launcher passes a signal on to the workers and waits for their end.
    """
    from torch.distributed.elastic.multiprocessing import SignalException

    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in LAUNCHER_SIGNALS} if here else {}
    try:
        yield
    except SignalException as error:
        raise KeyboardInterrupt from error
    finally:
        for number, handler in before.items():
            if handler is not None:  # Python's own, or none
                signal.signal(number, handler)


@contextmanager
def _silence() -> Iterator[None]:
    """What torch's launcher logs of dying workers is in the error that is raised."""
    logger, nowhere = logging.getLogger("torch.distributed.elastic"), logging.NullHandler()
    logger.addHandler(nowhere)
    passing, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.propagate = passing
        logger.removeHandler(nowhere)


def _said(folder: Path) -> str:
    """What workers wrote where nobody reads it."""
    found = sorted(folder.rglob("*.log"))
    return "".join(f"{path.parent.name}: {path.read_text(encoding='utf-8', errors='replace')}\n" for path in found)


def _failure(failures: "Failures", log: Path, said: str) -> FglError:
    """The error to raise for workers that failed: their own, what killed one, or that one ended."""
    in_order = sorted(failures.values(), key=lambda failure: failure.timestamp)
    told = [error for error in map(_told, in_order) if error]
    if meant := [error for error in told if type(error) is not FglError]:
        return meant[0]
    # A worker whose peer was killed says that the connection broke: that is not what went wrong.
    ended = FglError(f"a training process ended (status {in_order[0].exitcode})")
    error = _killed(in_order) or next(iter(told), ended)
    traces = [
        f"{rank}: {_recorded(failure).get('extraInfo', {}).get('py_callstack', failure.message)}\n"
        for rank, failure in failures.items()
    ]
    with suppress(OSError):  # the disk may be full: then that is what they died of
        log.write_text("".join(traces) + said, encoding="utf-8")
    return FglError(error.message, error.hint or f"all they said is in {log}; {GO_ON}")


def _recorded(failure: "ProcessFailure") -> dict[str, Any]:
    """What a worker left about its end in torch's error file; empty if it left none."""
    found = failure.error_file_data["message"]
    return found if isinstance(found, dict) else {}


def _told(failure: "ProcessFailure") -> FglError | None:
    """A worker's own error, as `python -m fglfast.training` writes it."""
    kind, _, text = _recorded(failure).get("message", "").partition(": ")
    message, _, hint = text.partition("\n")
    return getattr(errors, kind, FglError)(message, hint) if message else None


def _killed(failures: Iterable["ProcessFailure"]) -> FglError | None:
    """What a signal that ended a worker means; those of the launcher aside."""
    numbers = {-failure.exitcode for failure in failures if failure.exitcode < 0} - {signal.SIGTERM, signal.SIGINT}
    if signal.SIGKILL in numbers:
        hint = f"give a smaller --batch-size or fewer --processes, or end other programs; {GO_ON}"
        return FglError("a training process was killed (SIGKILL): most likely the machine is out of memory", hint)
    names = [signal.Signals(number).name for number in sorted(numbers)]
    return FglError(f"a training process died of {', '.join(names)}") if names else None
