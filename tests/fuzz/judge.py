"""Cases of a kind read one after the other, in a process of bounded memory: what became of them."""

import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from types import FrameType
from typing import Any

from hostile import Case, Kind
from hostile_engines import Manifests, Recipes
from hostile_payloads import Payloads
from hostile_shards import Shards
from hypothesis import HealthCheck, given, seed, settings

from fglfast.base.console import speaker
from fglfast.base.errors import FglError
from fglfast.base.limits import as_limit

KINDS = ("payload", "shard-verify", "shard-train", "manifest", "recipe")
HANG = 20.0  # seconds of wall time after which a case is given up
SLOW = 1000.0  # milliseconds of processor time that no case of a campaign may take
CHUNK = 500  # cases of a process
MEMORY = 300  # MiB that a process may grow by
ROOM = "/dev/shm" if Path("/dev/shm").is_dir() else None


class Hang(BaseException):
    """A case took too long."""


@dataclass
class Tally:
    """What became of the cases of a process."""

    mutations: dict[str, Counter[str]] = field(default_factory=dict)
    slowest: dict[str, Any] = field(default_factory=lambda: {"cpu_ms": 0.0})
    base_mib: float = 0.0
    peak_mib: float = 0.0
    failures: list[str] = field(default_factory=list)


@cache
def find_kind(name: str) -> Kind:
    """A kind by name."""
    if name.startswith("shard-"):
        return Shards(name.removeprefix("shard-"))
    return {"payload": Payloads, "manifest": Manifests, "recipe": Recipes}[name]()


def single_threaded() -> ProcessPoolExecutor:
    """A process that has started no thread, to fork from: a fork of one that has may wait for ever."""
    return ProcessPoolExecutor(1, get_context("spawn"))


def run(name: str, cases: int) -> dict[str, Any]:
    """Read so many cases of a kind, a chunk a process; a process that fails or dies is a failure.

    It forks, and takes the process's alarm: run it in a process that is `single_threaded`.

    Returns:
        What `benchmarks/results/fuzz.json` says of a kind.
    """
    kind, tallies = find_kind(name), []
    with tempfile.TemporaryDirectory(dir=ROOM) as folder:
        judge(kind, Case("warm", dict(kind.files), "accepted"), Path(folder))  # a first reading imports
    for first in range(0, cases, CHUNK):
        count = min(CHUNK, cases - first)
        with ProcessPoolExecutor(1, get_context("fork")) as process:
            try:
                tallies.append(process.submit(read_cases, name, count, first).result())
            except Exception as error:
                tallies.append(Tally(failures=["".join(traceback.format_exception(error))]))
    return together(tallies)


def together(tallies: list[Tally]) -> dict[str, Any]:
    """The chunks of a kind as one."""
    mutations: dict[str, Counter[str]] = {}
    for tally in tallies:
        for what, verdicts in tally.mutations.items():
            mutations.setdefault(what, Counter()).update(verdicts)
    verdicts = sum(mutations.values(), Counter[str]())
    failures = [failure for tally in tallies for failure in tally.failures]
    return {
        "cases": verdicts.total(),
        "accepted": verdicts["accepted"],
        "refused": verdicts["refused"],
        "failed": len(failures),
        "slowest": max((tally.slowest for tally in tallies), key=lambda slowest: slowest["cpu_ms"]),
        "imports_mib": max(tally.base_mib for tally in tallies),
        "peak_mib": max(tally.peak_mib for tally in tallies),
        "grown_mib": round(max(tally.peak_mib - tally.base_mib for tally in tallies), 1),
        "failures": failures[:20],
        "mutations": {what: dict(verdicts) for what, verdicts in sorted(mutations.items())},
    }


def read_cases(name: str, count: int, number: int) -> Tally:
    """Read `count` cases in this process; `number` seeds them.

    Raises:
        Exception: what a case met that is no error of ours, or AssertionError; hypothesis adds the smallest such case.
    """
    speaker.leads = False
    kind, tally = find_kind(name), Tally(base_mib=_bound_memory())
    with tempfile.TemporaryDirectory(dir=ROOM) as folder:

        @seed(number)
        @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))
        @given(kind.cases())
        def every_case(case: Case) -> None:
            verdict, slow = judge(kind, case, Path(folder))
            tally.mutations.setdefault(case.what, Counter())[verdict] += 1
            tally.slowest = max(tally.slowest, slow | {"what": case.what}, key=lambda slowest: slowest["cpu_ms"])

        try:
            every_case()
        except Exception as error:  # the smallest such case was the last
            kept = Path(tempfile.mkdtemp(prefix=f"fglfast-{name}-"))
            shutil.copytree(folder, kept, symlinks=True, dirs_exist_ok=True)
            error.add_note(f"its files: {kept}")
            raise
    tally.peak_mib = _status("VmHWM")
    return tally


def judge(kind: Kind, case: Case, folder: Path) -> tuple[str, dict[str, float]]:
    """Whether a case is accepted or refused, and the milliseconds that it took.

    Raises:
        Exception: what the reader raised that is no FglError.
        AssertionError: it hung, was out of memory, or is rightly neither accepted nor refused.
    """
    _lay(case, folder)
    signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, HANG)
    cpu, wall, accepted = time.process_time(), time.perf_counter(), None
    try:
        accepted, verdict = kind.read(folder), "accepted"
    except FglError as error:
        limit = as_limit(error.__cause__) if error.__cause__ else None
        assert not limit or limit.message != "out of memory", error.message
        verdict = "refused"
    except Hang:
        raise AssertionError(f"more than {HANG:.0f} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    took = {"cpu_ms": 1000 * (time.process_time() - cpu), "wall_ms": 1000 * (time.perf_counter() - wall)}
    assert case.expected in (verdict, "either"), f"{case.what}: {verdict}, which is wrong"
    problem = kind.lie(folder, accepted) if verdict == "accepted" else ""
    assert not problem, f"{case.what}: accepted, but {problem}"
    return verdict, took


def _lay(case: Case, folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name in case.files.keys() | case.links.keys():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name in case.links:
            (folder / name).symlink_to(case.links[name])
        elif (content := case.files[name]) is not None:
            (folder / name).write_bytes(content)


def _give_up(number: int, frame: FrameType | None) -> None:
    raise Hang


def _bound_memory() -> float:
    """Count memory from here: the peak anew, and no more address space than `MEMORY`; returns MiB in use."""
    Path("/proc/self/clear_refs").write_text("5")
    limit = (int(_status("VmSize")) + MEMORY) << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return _status("VmRSS")


def _status(key: str) -> float:
    """A size of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024, 1)
