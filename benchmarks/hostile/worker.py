"""A process that reads hostile cases one after the other and says what became of them. Started by `benchmarks.fuzz`.

Cases are drawn from (kind, seed, number) alone, so that any of them can be made again.
"""

import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.hostile.case import Case, Kind
from fglfast.base.console import speaker
from fglfast.base.errors import FglError
from fglfast.base.limits import as_limit

HANG = 20.0  # seconds of wall time after which a case is given up
SHOWN = 20  # failures that are kept


class Hang(BaseException):
    """A case took too long."""


def make_kind(name: str) -> Kind:
    """A kind by name; its imports are its own."""
    if name == "payload":
        from benchmarks.hostile.payloads import Payloads

        return Payloads()
    if name in ("shard-verify", "shard-train"):
        from benchmarks.hostile.shards import Shards

        return Shards(name.removeprefix("shard-"))
    from benchmarks.hostile.facts import FACTS

    return FACTS[name]()


def main(kind_name: str, seed: int, first: int, last: int, most_mib: int, answer: Path) -> None:
    """Go through cases `first` to `last` - 1 and write what was seen to `answer`."""
    speaker.leads = False
    kind = make_kind(kind_name)
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        own = Path(folder)
        _judge(kind, Case("warm", dict(kind.files), "accepted"), own)  # what a first reading imports is not the case's
        base = _begin(most_mib)
        seen = Seen()
        for number in range(first, last):
            answer.with_suffix(".at").write_text(str(number))
            case = kind.case(random.Random(f"{kind_name} {seed} {number}"))
            seen.add(number, case, *_judge(kind, case, own))
    peak = _status("VmHWM")
    found = seen.told() | {"base_mib": base, "peak_mib": peak}
    answer.write_text(json.dumps(found))


class Seen:
    """What became of the cases."""

    def __init__(self) -> None:
        self.verdicts: Counter[str] = Counter()
        self.whats: dict[str, Counter[str]] = {}
        self.failures: list[dict[str, Any]] = []
        self.slowest = (0.0, 0.0, -1, "")

    def add(self, number: int, case: Case, verdict: str, problem: str, cpu: float, wall: float) -> None:
        """Count one."""
        self.verdicts[verdict] += 1
        self.whats.setdefault(case.what, Counter())[verdict] += 1
        self.slowest = max(self.slowest, (cpu, wall, number, case.what))
        if problem and len(self.failures) < SHOWN:
            self.failures.append({"case": number, "what": case.what, "verdict": verdict, "problem": problem})

    def told(self) -> dict[str, Any]:
        """As JSON."""
        cpu, wall, number, what = self.slowest
        return {
            "verdicts": dict(self.verdicts),
            "mutations": {what: dict(counts) for what, counts in sorted(self.whats.items())},
            "slowest": {"cpu_ms": 1000 * cpu, "wall_ms": 1000 * wall, "case": number, "what": what},
            "failures": self.failures,
        }


def _judge(kind: Kind, case: Case, folder: Path) -> tuple[str, str, float, float]:
    """Verdict, problem, processor seconds and wall seconds of one case."""
    _lay(case, folder)
    signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, HANG)
    cpu, wall = time.process_time(), time.perf_counter()
    try:
        accepted = kind.read(folder)
        verdict, problem = "accepted", ""
    except FglError as error:
        limit = as_limit(error.__cause__) if error.__cause__ else None
        verdict, problem = ("memory", error.message) if limit and limit.message == "out of memory" else ("refused", "")
    except MemoryError:
        verdict, problem = "memory", "MemoryError"
    except Hang:
        verdict, problem = "hang", f"more than {HANG:.0f} s"
    except Exception as error:
        verdict, problem = "traceback", f"{type(error).__name__}: {str(error)[:300]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    took = time.process_time() - cpu, time.perf_counter() - wall
    if verdict == "accepted":
        if case.expected == "refused":
            verdict, problem = "let through", "a rule is broken, and it was accepted"
        elif problem := kind.lie(case, folder, accepted):
            verdict = "lie"
    elif verdict == "refused" and case.expected == "accepted":
        verdict, problem = "wrongly refused", "no rule is broken"
    return verdict, problem, *took


def _lay(case: Case, folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name, content in case.files.items():
        if content is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    for name, target in case.links.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(target)


def _give_up(number: int, frame: FrameType | None) -> None:
    raise Hang


def _begin(most_mib: int) -> float:
    """Count memory from here: the peak anew, and no more address space than this; returns MiB in use."""
    Path("/proc/self/clear_refs").write_text("5")
    limit = (int(_status("VmSize")) + most_mib) << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return _status("VmRSS")


def _status(key: str) -> float:
    """A size of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024, 1)


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


if __name__ == "__main__":
    main(sys.argv[1], *(int(text) for text in sys.argv[2:6]), Path(sys.argv[6]))
