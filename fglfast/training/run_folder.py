"""The folder of one training run: whose it is, its lock, its checkpoints and its history.

train.json            the run's identity (settings, data, class names) and, at the end, its result
history.jsonl         one row an epoch
checkpoint/<tag>/     the newest checkpoint; checkpoint/latest names it
config.json, preprocessor_config.json, model.safetensors, README.md      the finished model and its card
prototypes.safetensors                                                   its prototypes (see there)
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fglfast.base.errors import BadInputError, FglError, UsageError
from fglfast.base.files import exclusive, file_digest, sync_folder, write_atomic
from fglfast.base.folders import leads_out
from fglfast.base.untrusted import json_object, read_bytes
from fglfast.base.wording import differences, some
from fglfast.base.writable import check_card
from fglfast.shards.description import Description
from fglfast.shards.keep import LEFT_OUT
from fglfast.training.preprocessing import PROCESSOR
from fglfast.training.results import WEIGHTS, TrainResult
from fglfast.training.settings import Job

LOCK_PATIENCE = 10.0  # seconds: a killed run's workers need some to end
MOST_TAG = 100  # bytes
TAG = re.compile(r"epoch\d{5,9}-step\d{7,12}", re.ASCII)
MODEL_FILES = ("config.json", WEIGHTS)
SAVED = (*MODEL_FILES, PROCESSOR)  # of every finished run


def identity(job: Job, description: Description) -> dict[str, Any]:
    """What two runs must have in common for one to go on with the other's checkpoint."""
    settings = job.settings.model_dump(mode="json", exclude={"checkpoint_seconds"})
    for name in ("arch", "deepspeed", "initial"):
        file = Path(settings[name] or "")
        named = name != "arch" or file.suffix == ".json"  # else it may be called as an architecture
        if named and file.is_file():
            settings[name] = f"{file.name} sha256 {file_digest(file)[:16]}"
    data = description.model_dump(mode="json", include={"plan", "images", "image_size", "class_names"})
    listed = job.synthetic / LEFT_OUT
    if listed.is_file() and job.settings.keep is None:
        data["left_out"] = file_digest(listed)[:16]
    return {"settings": settings, "data": data}


class RunFolder:
    """The one place that reads and writes a run's bookkeeping; every write is whole or absent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record, self.history = path / "train.json", path / "history.jsonl"
        self.checkpoints, self.latest = path / "checkpoint", path / "checkpoint" / "latest"

    def result_of(self, wanted: dict[str, Any]) -> TrainResult | None:
        """The result if the folder holds this very run finished, None if the run can start or go on here.

        Raises:
            UsageError: the folder belongs to another run, with the differences shown, or to no run at all.
            BadInputError: `train.json` cannot be read, or the model that it tells of is not there.
        """
        if not self.record.exists():
            if any((self.path / name).exists() for name in MODEL_FILES):
                raise UsageError(f"{self.path} already holds a model of unknown origin", "choose another folder")
            check_card(self.path)
            return None
        try:
            record = json_object(self.record.read_text(encoding="utf-8"))
            result, there = record["result"], _told(record["run"])
            finished = TrainResult(**{**result, "model": self.path, "already_done": True}) if result else None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInputError(f"{self.record} cannot be read: {error}", "choose another folder") from error
        if differing := differences(there, _told(wanted)):
            raise UsageError(
                f"{self.path} belongs to another run: {differing}",
                "choose another folder, or delete this one to start anew",
            )
        if finished and (gone := [name for name in SAVED if not (self.path / name).is_file()]):
            raise BadInputError(
                f"{self.path}: {self.record.name} tells of a finished model, but the folder lacks {some(gone)}",
                "put back what is missing, or delete the folder to train anew",
            )
        return finished

    def write_record(self, run: dict[str, Any], result: TrainResult | None) -> None:
        """Write `train.json`; with a result the run counts as finished."""
        self.path.mkdir(parents=True, exist_ok=True)
        answer = result.model_dump(mode="json", exclude={"model", "already_done"}) if result else None
        write_atomic(self.record, json.dumps({"run": run, "result": answer}, indent=2) + "\n")

    def write_history(self, rows: list[dict[str, Any]]) -> None:
        """Write all epochs so far: a resumed run replaces what a killed one had written ahead."""
        write_atomic(self.history, "".join(json.dumps(row) + "\n" for row in rows))

    def newest_tag(self) -> str | None:
        """The tag of the newest whole checkpoint.

        Raises:
            BadInputError: `checkpoint/latest` names what is none: a path, say, to somewhere else.
        """
        if not self.latest.exists():
            return None
        tag = read_bytes(self.latest, MOST_TAG).decode(errors="replace").strip()
        if not TAG.fullmatch(tag) or leads_out(self.checkpoints / tag, self.path):
            raise BadInputError(f"{self.latest} names no checkpoint", "delete the checkpoint folder to start anew")
        return tag

    def publish(self, temporary: str, tag: str) -> None:
        """Make the checkpoint written as `temporary` the latest and delete all others."""
        written, final = self.checkpoints / temporary, self.checkpoints / tag
        for path in (*written.iterdir(), written):
            sync_folder(path)  # a file is synced as a folder is
        shutil.rmtree(final, ignore_errors=True)
        written.rename(final)
        write_atomic(self.latest, tag)
        for other in self.checkpoints.iterdir():
            if other.is_dir() and other != final:
                shutil.rmtree(other, ignore_errors=True)

    def discard_checkpoints(self) -> None:
        """Delete all checkpoints, once the model is written."""
        self.latest.unlink(missing_ok=True)
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against a second run; the system frees it when the process ends, however it ends.

        Raises:
            FglError: another run keeps it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with exclusive(self.path / ".lock", wait=LOCK_PATIENCE) as free:
            if not free:
                raise FglError(f"another training runs in {self.path}", "wait for it, or choose another folder")
            yield


def _told(run: dict[str, Any]) -> dict[str, Any]:
    """An identity as its differences are said: settings by their own names."""
    return {**run["settings"], "data": run["data"]}
