"""The stages of a run, each with its seconds and bytes: one stopwatch for all who run some."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fglfast.base.config import Settings
from fglfast.base.console import note
from fglfast.base.files import write_atomic

T = TypeVar("T")


class Stage(Settings):
    """One stage: wall seconds, bytes it left behind, and one line about it."""

    name: str
    seconds: float
    bytes: int = 0
    note: str = ""


class Stages:
    """The stages of one run, in order.

    A stage's seconds are those of the call that did it to the end, and stay in the folder: a later call finds it done.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: list[Stage] = []

    def run(self, name: str, what: str, work: Callable[[], T], left: Callable[[T], int] = lambda _: 0) -> T:
        """Do a stage, or what is left of it; its name is a file's too, and `left` tells the bytes of its result."""
        note(f"[{len(self.done) + 1}] {name}: {what}")
        begun = time.monotonic()
        result = work()
        file = self.folder / f"{name}.seconds"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, f"{time.monotonic() - begun:.3f}\n")
        seconds = float(file.read_text(encoding="utf-8"))
        self.done.append(Stage(name=name, seconds=round(seconds, 2), bytes=left(result), note=what))
        return result

    @property
    def seconds(self) -> float:
        """Of all that were done."""
        return sum(stage.seconds for stage in self.done)
