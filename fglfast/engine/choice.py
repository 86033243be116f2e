"""Which of several engines of a model: the winner of a contest, which is remembered.

A resumed run draws with the same engine.
"""

import hashlib
import json
import math
from pathlib import Path

from fglfast.base.console import note
from fglfast.base.errors import BadInputError
from fglfast.base.files import lock_of, write_atomic
from fglfast.base.untrusted import read_object
from fglfast.engine.finding import Made, Source, find_or_make, require_writable, turn
from fglfast.engine.manifest import Key

MOST_TIMES = 1 << 16  # bytes of a file of measured times


def choose(keys: list[Key], source: Source) -> Made:
    """Open the fastest of several engines, measured once.

    Ranks that start together take turns: measuring side by side, they could choose differently.

    Args:
        keys: they differ in backend and precision.
        source: the model.

    Raises:
        BadInputError: the model cannot be used.
        Exception: what the first one raised, where none works.
    """
    by_name = {name_of(key): key for key in keys}
    path = choice_file(keys, source.engines)
    made = None
    if not path.exists():
        from fglfast.engine.contest import Contest  # with all that makes engines

        require_writable(source.engines)
        with turn(lock_of(path), "the choice of a backend"):
            if not path.exists():
                contest = Contest(by_name, source)
                made = contest.held()
                write_atomic(path, json.dumps(contest.seconds) + "\n")
    seconds = remembered(path, set(by_name))
    ranked = sorted(seconds, key=seconds.__getitem__)
    told, rows = ", ".join(f"{name} {1000 * seconds[name]:.0f} ms" for name in ranked), keys[0].build.unet_batch
    why = "fastest of those tried" if len(ranked) > 1 else "no other was tried"
    note(f"backend {ranked[0]}: {why} (one UNet pass of {rows} rows: {told})")
    return made or find_or_make(by_name[ranked[0]], source)


def choice_file(keys: list[Key], engines: Path) -> Path:
    """Where the times of engines that were measured are remembered."""
    digest = hashlib.sha256("".join(key.digest() for key in keys).encode()).hexdigest()[:16]
    return engines / f"auto-{digest}.json"


def name_of(key: Key) -> str:
    """Backend and precision, as --backend of `fglfast bench` takes them."""
    return f"{key.build.backend}:{key.build.precision}"


def remembered(path: Path, names: set[str]) -> dict[str, float]:
    """The times that were measured before, of each backend."""
    hint = "delete it, and the backends are measured again"
    seconds = read_object(path, MOST_TIMES, hint)
    times = all(isinstance(time, float) and 0 < time < math.inf for time in seconds.values())
    if not seconds or not seconds.keys() <= names or not times:
        raise BadInputError(f"{path}: not the times of {', '.join(sorted(names))}", hint)
    return seconds
