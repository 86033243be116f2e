"""Where a measurement is kept: one JSON with the machine, the versions and the command that made it.

What a benchmark finds on its way is kept in a folder of its own: a second call goes on where the first was cut short.
"""

import json
import shlex
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fglfast.base.files import write_atomic
from fglfast.base.machine import machine_facts, package_versions
from fglfast.engine.manifest import device_name

RESULTS = Path(__file__).parent / "results"


def save_result(name: str, found: dict[str, Any]) -> Path:
    """Write `benchmarks/results/NAME.json`: what was measured, and the circumstances unless it holds older ones."""
    path = path_of(name)
    write_atomic(path, json.dumps(circumstances() | found, indent=2, ensure_ascii=False) + "\n")
    return path


def path_of(name: str) -> Path:
    """The file of a result."""
    return RESULTS / f"{name}.json"


def result(name: str) -> dict[str, Any]:
    """The result of that name."""
    found: dict[str, Any] = json.loads(path_of(name).read_text(encoding="utf-8"))
    return found


def measured(*names: str) -> list[dict[str, Any]]:
    """The results of these names that are there."""
    return [result(name) for name in names if path_of(name).exists()]


def once(file: Path, find: Callable[[], Any]) -> Any:
    """What an earlier call found, or what is found now and kept."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(find()) + "\n")
    return json.loads(file.read_text(encoding="utf-8"))


def renewals(old: dict[str, Any], only: str) -> list[dict[str, Any]]:
    """What a result that is measured again in part says under "renewed": every time, what of it and in which ones."""
    return [*old.get("renewed", []), {"only": only, **circumstances()}]


def circumstances() -> dict[str, Any]:
    """Command, time, machine and versions; of absolute paths on the command line, only the last part is kept."""
    arguments = [Path(argument).name if Path(argument).is_absolute() else argument for argument in sys.argv[1:]]
    command = ["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *arguments]
    return {
        "command": shlex.join(command),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine_facts(device_name()),
        "versions": package_versions(),
    }
