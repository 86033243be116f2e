"""A training worker, as launch.py has it started: `python -m fglfast.training JOB_FILE LAUNCHER`."""

import os
import sys
import threading
import time
import warnings
from contextlib import redirect_stdout
from pathlib import Path

from fglfast.base.console import hushed, quiet_libraries
from fglfast.base.errors import ExitCode, FglError
from fglfast.base.extras import missing_extra
from fglfast.base.limits import as_limit
from fglfast.base.ranks import find_rank, show_gpu
from fglfast.training.settings import Job

PATIENCE = 0.2  # seconds between two looks at the launcher


def work(job_file: Path) -> None:
    """Do a worker's part of a job.

    Raises:
        FglError: whatever went wrong, the line and the hint as its text: torch's launcher is told no more.
    """
    job = Job.model_validate_json(job_file.read_bytes())
    try:
        from fglfast.training.worker import run_job
        from fglfast.training.world import launched

        run_job(job, launched)
    except Exception as error:
        last = (str(error).strip().splitlines() or ["no message"])[-1]
        failed = FglError(f"training failed: {type(error).__name__}: {last}")
        known = missing_extra(error, "server", "fglfast train") or as_limit(error, str(job.out))
        told = error if isinstance(error, FglError) else known or failed
        raise type(told)(f"{told.message.splitlines()[-1]}\n{told.hint}") from error


def main(job_file: Path, launcher: int) -> int:
    """Run a worker silently: what went wrong is in the file that torch's launcher asks for."""
    threading.Thread(target=_end_with, args=(launcher,), daemon=True).start()
    quiet_libraries()
    if hushed():
        warnings.filterwarnings("ignore")
    show_gpu(find_rank())
    from torch.distributed.elastic.multiprocessing.errors import record

    try:
        with redirect_stdout(sys.stderr):
            record(work)(job_file)
    except FglError as error:
        return error.exit_code
    return ExitCode.DONE


def _end_with(launcher: int) -> None:
    """End when the process that started this one has ended: killed, it says no word."""
    while os.getppid() == launcher:
        time.sleep(PATIENCE)
    os._exit(ExitCode.FAILURE)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
