"""How the program speaks: progress and notes on stderr, results on stdout."""

import json
import logging
import os
import sys
import time
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import TextIOWrapper
from types import TracebackType
from typing import Any, Literal, cast, get_args

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from fglfast.base.wording import duration

PLAIN_SECONDS = 10.0
MOST_ROWS = 20  # of a table in the terminal
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # NCCL's guesses at what DeepSpeed leaves out
    "TQDM_DISABLE": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
}
LEVEL = "FGLFAST_LOG_LEVEL"  # child processes hear no less and no more
Level = Literal["error", "info", "debug"]
LOUD = {
    "TRANSFORMERS_VERBOSITY": "info",
    "DIFFUSERS_VERBOSITY": "info",
    "TORCH_CPP_LOG_LEVEL": "INFO",
    "FGLFAST_DEBUG": "1",
}
# They warn of CUDA libraries that are not there, and of each other's versions.
CHATTY = ("torchao", "torch.utils._pytree", "xformers")

if not os.environ.get("COLUMNS", "80").strip("0"):  # nobody knows the width; at 0, rich prints nothing
    del os.environ["COLUMNS"]


class Remarks(Console):
    """What is said beside the result: one that cannot be written is let go, as the work is worth more."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich has it, but for its errors."""
        with suppress(OSError):
            super().print(*objects, **options)


stderr = Remarks(stderr=True, highlight=False, emoji=False)  # DATA:train: is no tram
stdout = Console(highlight=False, emoji=False)


def set_level(level: Level) -> None:
    """How much is said on stderr, here and in processes that are started here; before libraries are imported.

    Args:
        level: "error" for errors alone; "info" for notes and progress too; "debug" also for what libraries say, and for
            the traceback of an error that is a bug.
    """
    os.environ[LEVEL] = level
    speaker.quiet = level == "error"
    if level == "debug":
        os.environ |= LOUD
        logging.basicConfig(level=logging.INFO, stream=sys.stderr)


def hushed() -> bool:
    """Whether libraries are to keep quiet."""
    return os.environ.get(LEVEL) != "debug"


def quiet_libraries() -> None:
    """Keep libraries from printing messages of their own; call it before any of them is imported."""
    level = os.environ.get(LEVEL)
    if level in get_args(Level):
        set_level(cast(Level, level))
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", module="PIL.TiffImagePlugin")  # warnings of truncated EXIF, which name no file
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)


def open_streams() -> None:
    """Make the standard streams accept whatever is written to them.

    A closed stream swallows it, and a letter that the encoding lacks becomes "?". Left closed, the stream would give
    its number to the next file that is opened, and C libraries would print into that.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is the stream's
            os.set_inheritable(nowhere, True)
            setattr(sys, name, os.fdopen(nowhere, mode, encoding="utf-8"))
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def written_out() -> bool:
    """Flush the output, and return whether the result is out; remarks that are not do not count.

    Nothing is said of a reader that has gone, such as `head`; of a full disk it is. What cannot be written is thrown
    away: else the interpreter would try again as it ends, and complain.
    """
    written = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if stream is sys.stdout:
                written = False
                if not isinstance(error, BrokenPipeError):
                    complain(f"error: standard output cannot be written ({error.strerror})")
    return written


@dataclass
class Speaker:
    """Who speaks in this process, when several share a terminal.

    Attributes:
        name: what each of its lines begins with; empty for a process that is alone.
        leads: whether it shows progress; one process does so for all, as their shares are alike.
        quiet: whether it says nothing but errors.
    """

    name: str = ""
    leads: bool = True
    quiet: bool = False


speaker = Speaker()

UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode's control, format, surrogate and separator characters
JOINERS = "\u200c\u200d"  # invisible, yet part of ordinary spelling in several scripts


def visible(text: str) -> str:
    """The text, with a question mark for each character that could move, hide or reverse what a terminal shows.

    Strangers choose the names of files, classes and keys. Line feeds and tabs are kept.
    """
    if text.isprintable():
        return text
    allowed = JOINERS + "\n\t"
    return "".join("?" if unicodedata.category(c) in UNSEEN and c not in allowed else c for c in text)


def signed(text: str) -> str:
    """A line that is safe to show, with the speaker's name before it."""
    return visible(f"{speaker.name}: {text}" if speaker.name else text)


def note(text: str) -> None:
    """Print a remark on the work in progress to stderr; it is never part of a command's result."""
    if not speaker.quiet:
        complain(text)


def complain(text: str) -> None:
    """Print what must be said, however quiet the process is, to stderr."""
    stderr.print(signed(text), markup=False, soft_wrap=True)


def emit_json(result: dict[str, Any]) -> None:
    """Print a command's result as one JSON object, the only output on stdout; what the encoding lacks is escaped.

    Raises:
        ValueError: there is a NaN or an infinity in it, which JSON lacks.
    """
    text = json.dumps(result, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        text = json.dumps(result)
    sys.stdout.write(text + "\n")


def print_table(table: Table, rows: Sequence[tuple[str, ...]]) -> None:
    """Print the first rows of a table and how many more there are, so that a long one does not scroll the rest away.

    The table has columns, and no rows; the most telling rows come first. Cells are shown as they are, without markup.
    """
    for row in rows[:MOST_ROWS]:
        table.add_row(*map(Text, row))
    stdout.print(table)
    if len(rows) > MOST_ROWS:
        stdout.print(f"and {len(rows) - MOST_ROWS:,} more; --json has them all")


@contextmanager
def no_loading_bars() -> Iterator[None]:
    """Silence transformers' own progress bars, which show milliseconds of work and clutter a pipe."""
    from transformers.utils import logging

    bars: Any = logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


class Progress:
    """A progress bar with the rate and the time left; on a pipe, or of several processes, a line every ten seconds.

    Without a name it shows nothing.
    """

    def __init__(self, name: str, total: int, start: int = 0, unit: str = "image") -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done, self.start = start, start
        self.begun = self.said = time.monotonic()
        self.bar: RichProgress | None = None
        if name and stderr.is_terminal and not speaker.name and not speaker.quiet:
            self.bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=stderr,
            )
            self.task = self.bar.add_task(name, total=total, completed=start, note="")

    def __enter__(self) -> "Progress":
        if self.bar:
            self.bar.start()
        return self

    def advance(self, count: int, **facts: str) -> None:
        """Count finished work; `facts` such as loss="0.12" are shown beside the rate."""
        self.done += count
        now = time.monotonic()
        rate = (self.done - self.start) / max(now - self.begun, 1e-9)
        pace = f"{rate:.1f} {self.unit}s/s" if rate >= 1 else f"{1 / max(rate, 1e-9):.1f} s/{self.unit}"
        text = "  ".join([pace, *(f"{k} {v}" for k, v in facts.items())])
        if self.bar:
            self.bar.update(self.task, completed=self.done, note=text)
        elif self.name and speaker.leads and (now - self.said > PLAIN_SECONDS or self.done == self.total):
            self.said = now
            left = (self.total - self.done) / max(rate, 1e-9)
            note(f"{self.name}: {self.done}/{self.total}  {text}  {duration(left)} left")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()
