"""Where the rows of a run go beside its history: TensorBoard, Weights & Biases, MLflow, whatever DeepSpeed writes to.

Nothing leaves the machine unless the user's environment says so: WANDB_MODE, MLFLOW_TRACKING_URI.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fglfast.base.errors import MissingExtraError
from fglfast.training.settings import Job, Tracker

Row = dict[str, Any]


def check_tracker(name: Tracker | None) -> None:
    """Refuse a tracker whose package is not here.

    Raises:
        MissingExtraError: the hint is the install command.
    """
    spec = find_spec(name) if name else None
    if name and (spec is None or spec.origin is None):  # none of a folder of that name, as wandb leaves one
        raise MissingExtraError(f"--track {name} needs {name}, which is not installed", f"pip install {name}")


def monitor_section(name: Tracker | None, out: Path) -> dict[str, Any]:
    """What DeepSpeed's configuration says of a tracker; of MLflow it knows nothing."""
    if name == "tensorboard":
        return {name: {"enabled": True, "output_path": str(out), "job_name": name}}
    return {name: {"enabled": True, "project": "fglfast", "group": out.name}} if name == "wandb" else {}


@contextmanager
def tracked(job: Job, engine: Any) -> Iterator[Callable[[Row], None]]:
    """What writes a row to the job's tracker, and to those in the user's DeepSpeed file; for the leading process.

    The steps of DeepSpeed's monitors are images seen, as those of what DeepSpeed itself writes there.
    """

    def write(row: Row) -> None:
        found = {f"Epoch/{key}": value for key, value in row.items() if value is not None and key != "step"}
        if engine.monitor.enabled:
            engine.monitor.write_events([(key, value, engine.global_samples) for key, value in found.items()])
        if job.track == "mlflow":
            import mlflow

            mlflow.log_metrics(found, step=row["step"])

    if job.track == "mlflow":
        with _mlflow_run(job):
            yield write
        return
    try:
        yield write
    finally:
        if job.track == "wandb":  # DeepSpeed begins its run and does not end it
            import wandb

            wandb.finish()


@contextmanager
def _mlflow_run(job: Job) -> Iterator[None]:
    import mlflow

    mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{job.out / 'mlflow.db'}")
    mlflow.set_experiment("fglfast")
    with mlflow.start_run(run_name=job.out.name):
        mlflow.log_params(job.settings.model_dump(mode="json"))
        yield


def offline(job: Job) -> dict[str, str]:
    """The environment of a tracked run: Weights & Biases writes into its folder and sends nothing, unless told to."""
    usual = {"WANDB_MODE": "offline", "WANDB_DIR": str(job.out)} if job.track == "wandb" else {}
    return {name: os.environ.get(name, value) for name, value in usual.items()}
