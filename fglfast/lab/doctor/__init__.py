"""What works on this machine, seen by trying it. Knows no library: they are tried in a process apart."""

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from multiprocessing import get_context, parent_process
from typing import Literal, ParamSpec, TypeVar

from rich import box
from rich.table import Table
from rich.text import Text

from fglfast.base.console import note, stderr
from fglfast.base.errors import FglError, MissingExtraError
from fglfast.base.extras import missing_extra
from fglfast.lab.doctor import installed, runtimes
from fglfast.lab.doctor.installed import Probes

State = Literal["works", "missing", "broken"]
P = ParamSpec("P")
R = TypeVar("R")

GROUPS: tuple[tuple[str, Callable[[], Probes]], ...] = (
    ("packages", installed.packages),
    ("devices", installed.processor),
    ("devices", installed.gpus),
    ("backends", runtimes.backends),
    ("attention", runtimes.attention),
    ("training", runtimes.training),
    ("extras", installed.extras),
    ("disk and hub", installed.disk_and_hub),
)
SLOW = ("backends", "training")  # groups whose every check may take its time
STYLES: dict[State, str] = {"works": "green", "missing": "yellow", "broken": "red"}
CRASH = "it crashes the process that tries it"
PATIENCE = 120  # seconds for one check; whoever waits longer takes it for a hang


@dataclass(frozen=True)
class Check:
    """One thing that was tried.

    Attributes:
        group: one of `GROUPS`.
        name: what was tried.
        state: whether it works, is not there, or is there and fails.
        detail: what it is; if it does not work, why.
        mend: the command that mends it; empty if it works or no command can.
    """

    group: str
    name: str
    state: State
    detail: str
    mend: str = ""

    @property
    def required(self) -> bool:
        """Whether nothing works without it: the core packages, and what a server needs where it is there but broken."""
        if self.group == "packages" and installed.is_core(self.name):
            return True
        of_server = self.group == "packages" or (self.group == "backends" and self.name in ("torch", "backends"))
        return of_server and self.state == "broken"


def diagnose() -> list[Check]:
    """Try everything, in the order of `GROUPS`; what a library raises, prints or crashes with becomes a check."""
    checks = []
    with stderr.status("") as status, _Apart() as apart:
        for group, list_probes in GROUPS:
            unlisted: Probes = {list_probes.__name__: partial(_fail, FglError(CRASH))}
            _say(f"trying {group}")
            for name, probe in apart.call(unlisted, _listed, list_probes).items():
                status.update(f"trying {group}: {name}")
                if group in SLOW:
                    _say(f"trying {group}: {name}")
                began = time.monotonic()
                check = apart.call(Check(group, name, "broken", CRASH), examine, group, name, probe, PATIENCE)
                late = check.detail == CRASH and time.monotonic() - began > PATIENCE
                checks.append(replace(check, detail=f"not done after {PATIENCE} s") if late else check)
    return checks


def _say(what: str) -> None:
    """Where there is no terminal for a status that changes, a line: a minute without one looks like a hang."""
    if not stderr.is_terminal:
        note(what)


def examine(group: str, name: str, probe: Callable[[], str], patience: float = PATIENCE) -> Check:
    """Try one thing, for so many seconds, after which the process ends; only an interruption is raised.

    A probe returns the detail, or raises: `MissingExtraError` if it is not there, anything else if it fails.
    """
    faulthandler.dump_traceback_later(patience, exit=True)
    try:
        return Check(group, name, "works", probe())
    except KeyboardInterrupt:
        raise
    except MissingExtraError as error:
        return Check(group, name, "missing", error.message, error.hint)
    except FglError as error:
        return Check(group, name, "broken", error.message, error.hint)
    except BaseException as error:
        if lacking := _lacking(error):
            return Check(group, name, "missing", lacking.message, lacking.hint)
        return Check(group, name, "broken", installed.reason(error))
    finally:
        faulthandler.cancel_dump_traceback_later()


def counts(checks: Sequence[Check]) -> dict[str, int]:
    """How many checks are in each state."""
    return {state: sum(check.state == state for check in checks) for state in STYLES}


def table(checks: Sequence[Check]) -> Table:
    """The checks as a table for 80 columns or more; the packages that work share a row."""
    working = [check for check in checks if check.group == "packages" and check.state == "works"]
    rows = [check for check in checks if check not in working]
    if working:
        versions = ", ".join(f"{check.name}=={check.detail}" for check in working)
        rows.insert(0, Check("packages", f"{len(working)} packages", "works", versions))
    shown = Table("what", "state", "detail", box=box.SIMPLE_HEAD, pad_edge=False)
    for group, members in groupby(rows, key=lambda check: check.group):
        shown.add_section()
        shown.add_row(Text(group, "bold"))
        for check in members:
            mend = f"\nmend: {check.mend}" if check.mend else ""
            shown.add_row(f"  {check.name}", Text(check.state, STYLES[check.state]), Text(check.detail + mend))
    return shown


class _Apart:
    """A process apart, in which libraries may print, exit or crash; one that died is replaced."""

    def __enter__(self) -> "_Apart":
        self.pool = ProcessPoolExecutor(1, get_context("spawn"), _settle)
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()

    def call(self, if_it_dies: R, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return self.pool.submit(function, *args, **kwargs).result()
        except BrokenProcessPool:
            self.__enter__()
            return if_it_dies


def _settle() -> None:
    """Begin the process apart: it says nothing, and does not outlive a doctor that was killed."""
    threading.Thread(target=_follow_parent, daemon=True).start()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # C libraries print past sys.stdout
        os.dup2(nowhere, descriptor)


def _follow_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _listed(list_probes: Callable[[], Probes]) -> Probes:
    try:
        return list_probes()
    except Exception as error:
        return {list_probes.__name__: partial(_fail, _lacking(error) or FglError(installed.reason(error)))}


def _lacking(error: BaseException) -> MissingExtraError | None:
    """A library that is not installed, which only servers need."""
    return missing_extra(error, "server", "it")


def _fail(error: FglError) -> str:
    raise error
