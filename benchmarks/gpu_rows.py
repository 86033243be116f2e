"""What is tried on a GPU a part at a time, and kept part by part: a call that is cut short leaves what it finished."""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.results_file import circumstances
from fglfast.base.console import note
from fglfast.base.errors import ExitCode, FglError
from fglfast.base.files import write_atomic
from fglfast.base.wording import first_line

Row = dict[str, Any]
XFORMERS = "xformers"
TUNED = "torch-autotune"
# In this order: what a first call may not come to is what matters least.
PRECISIONS = ("bfloat16", "float16", "int8", "float8", "float32")


class Rows:
    """Rows of one table, a JSON each; one that is there counts if the same was asked of the same machine.

    Attributes:
        failed: reasons, by row; those are tried again by the next call.
    """

    def __init__(self, folder: Path, settings: Row) -> None:
        facts = circumstances()
        self.folder, self.same = folder, {"settings": settings, **{key: facts[key] for key in ("machine", "versions")}}
        self.failed: dict[str, str] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str, measure: Callable[[], Row]) -> Row | None:
        """A row that was kept, or else is measured; None where it fails."""
        path = self.folder / f"{re.sub('[^a-z0-9]+', '-', name.lower())}.json"
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if all(kept.get(key) == value for key, value in self.same.items()):
            note(f"{name}: found in {path}")
            return kept["row"]  # type: ignore[no-any-return]
        note(name)
        began = time.monotonic()
        try:
            row = measure()
        except Exception as error:  # each runtime has errors of its own, and the next may do
            reason = self.failed[name] = first_line(error)
            note(f"{name} failed: {reason}")
            return None
        row |= {"took_seconds": round(time.monotonic() - began, 1)}
        write_atomic(path, json.dumps(self.same | {"row": row}, indent=2) + "\n")
        return row


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """End the process, whatever it is at, when the block takes so long: exit code 5.

    The contenders end too, for their standard input closes; a half-built engine is never found.
    """

    def end() -> None:
        note(f"error: not done after {seconds} s; every row that was finished is kept, and what was built")
        note("  hint: run the same command again, until it prints the table")
        os._exit(ExitCode.INCOMPLETE)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def engines_here() -> list[str]:
    """Every backend here in each of its precisions, as BACKEND:PRECISION; those that use xformers also without it.

    The tuned one in the first of them alone, and last: it takes longer than all others together.
    """
    from benchmarks.contender import WITHOUT  # which imports PyTorch
    from fglfast.engine.attention import xformers_refusal
    from fglfast.engine.backends import find_backend, installed

    names: list[str] = []
    tuned = f"{TUNED}:{PRECISIONS[0]}"
    for precision in PRECISIONS:
        for name in installed():
            backend = find_backend(name)
            needs = backend.needs.get(precision)
            if precision not in backend.precisions or backend.refusal(precision) or not backend.uses_gpu():
                continue
            if needs and not find_spec(needs):
                continue
            names.append(f"{name}:{precision}")
            if precision == PRECISIONS[0] and XFORMERS in backend.optional and not xformers_refusal():
                names.append(f"{names[-1]}{WITHOUT}{XFORMERS}")
    others = [name for name in names if not name.startswith(TUNED)]
    return [*others, tuned] if tuned in names else others


def two_ranks(recipe: Any, model: Path, engines: Path, images_per_class: int) -> Row:
    """The same data set by one process and by two that share the card: seconds, and whether the tars are equal.

    Raises:
        FglError: a process failed.
    """
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        (work / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
        payload = work / "ann.safetensors"
        _together([["embed", "fashion:private", "--model", str(model), "--out", str(payload)]], {})
        command = ["synthesize", "--embeddings", str(payload), "--recipe", str(work / "recipe.toml")]
        command += ["--model", str(model), "--engines", str(engines), "--images-per-class", str(images_per_class)]
        command += ["--shard-size", str(recipe.unet_batch), "--out"]
        alone = _together([[*command, str(work / "alone")]], {})
        ranks = _together([[*command, str(work / "ranks")]] * 2, {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"})
        tars = [sorted((work / name).glob("*.tar")) for name in ("alone", "ranks")]
        equal = [path.read_bytes() for path in tars[0]] == [path.read_bytes() for path in tars[1]]
    return {"seconds_alone": alone, "seconds_by_two": ranks, "shards": len(tars[0]), "equal": equal}


def _together(commands: Sequence[Sequence[str]], changes: Mapping[str, str]) -> float:
    """Seconds of some fglfast commands side by side, numbered as torchrun does where they are several."""
    began = time.monotonic()
    started = []
    for number, command in enumerate(commands):
        ranked = {**changes, "RANK": str(number), "LOCAL_RANK": str(number)} if changes else {}
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "fglfast", *command],
                env=os.environ | ranked,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    said = [process.communicate()[1] for process in started]
    for process, words in zip(started, said, strict=True):
        if process.returncode:
            raise FglError((words.strip().splitlines() or ["no message"])[0], "run `fglfast doctor`")
    return round(time.monotonic() - began, 2)
