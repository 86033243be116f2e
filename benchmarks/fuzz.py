"""Hostile payloads, shards, data-set facts, manifests and recipes by the ten thousand: what becomes of them.

Each is sound files spoilt in one way, drawn from (kind, seed, number). A failure is a traceback, a hang, more memory
than allowed, a broken rule let through, a sound file refused, or a lie: something accepted that an independent reading
of the bytes contradicts. Killed, it goes on with the chunk that it was at.
"""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.results_file import save_result

KINDS = ("payload", "shard-verify", "shard-train", "manifest", "recipe")
WORK = Path(tempfile.gettempdir()) / "fglfast-fuzz"
SLOW = 1000.0  # milliseconds of processor time that no case may take


def main(
    kinds: Annotated[list[str] | None, typer.Argument(help="Of files; all.", show_default=False)] = None,
    payloads: Annotated[int, typer.Option(help="Cases of the kind payload.")] = 100_000,
    others: Annotated[int, typer.Option(help="Cases of each other kind.")] = 10_000,
    seed: int = 0,
    chunk: Annotated[int, typer.Option(help="Cases of a process.")] = 2500,
    memory: Annotated[int, typer.Option(help="MiB that a process may grow by.")] = 300,
    work: Annotated[Path, typer.Option(help="What finished chunks found.")] = WORK,
) -> None:
    """Run what is not finished, print and keep what was found; exits with 1 if anything failed."""
    work.mkdir(parents=True, exist_ok=True)
    found = {}
    for kind in kinds or KINDS:
        cases = payloads if kind == "payload" else others
        parts = [_chunk(kind, seed, first, min(first + chunk, cases), memory, work) for first in range(0, cases, chunk)]
        found[kind] = together(parts)
        typer.echo(f"{kind}: {json.dumps({key: value for key, value in found[kind].items() if key != 'mutations'})}")
    save_result("fuzz", {"seed": seed, "memory_limit_mib": memory, "kinds": found})
    if any(kind["failed"] for kind in found.values()):
        raise typer.Exit(1)


def _chunk(kind: str, seed: int, first: int, last: int, memory: int, work: Path) -> dict[str, Any]:
    """What one process finds; a process that dies is a failure of the case that it was at."""
    answer = work / f"{kind}-{seed}-{first}-{last}-{memory}.json"
    if not answer.exists():
        numbers = [str(number) for number in (seed, first, last, memory)]
        command = [sys.executable, "-m", "benchmarks.hostile.worker", kind, *numbers, str(answer)]
        try:
            status: int | str = subprocess.run(command, timeout=120 + (last - first), check=False).returncode
        except subprocess.TimeoutExpired:
            status = "hang"
        if status:
            at = int(answer.with_suffix(".at").read_text()) if answer.with_suffix(".at").exists() else first
            return {
                "verdicts": {"died": 1},
                "failures": [{"case": at, "verdict": "died", "problem": f"status {status}"}],
            }
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


def together(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The chunks of a kind as one."""
    verdicts, mutations = Counter[str](), dict[str, Counter[str]]()
    for part in parts:
        verdicts.update(part["verdicts"])
        for what, counts in part.get("mutations", {}).items():
            mutations.setdefault(what, Counter()).update(counts)
    slowest = max(
        (part["slowest"] for part in parts if "slowest" in part), key=lambda slow: slow["cpu_ms"], default=None
    )
    told = [part for part in parts if "peak_mib" in part]
    failed = sum(count for verdict, count in verdicts.items() if verdict not in ("accepted", "refused"))
    return {
        "cases": verdicts.total(),
        "accepted": verdicts["accepted"],
        "refused": verdicts["refused"],
        "tracebacks": verdicts["traceback"],
        "failed": failed + bool(slowest and slowest["cpu_ms"] > SLOW),
        "verdicts": dict(verdicts),
        "slowest": slowest,
        "imports_mib": max((part["base_mib"] for part in told), default=None),
        "peak_mib": max((part["peak_mib"] for part in told), default=None),
        "grown_mib": round(max((part["peak_mib"] - part["base_mib"] for part in told), default=0.0), 1),
        "failures": [failure for part in parts for failure in part["failures"]][:20],
        "mutations": {what: dict(counts) for what, counts in sorted(mutations.items())},
    }


if __name__ == "__main__":
    typer.run(main)
