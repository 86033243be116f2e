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
    """Open the fastest of several engines of a model, measured once; their keys differ in backend and precision.

    Ranks that start together take turns: measuring side by side, they could choose differently.

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
    seconds = _remembered(path, set(by_name))
    fastest = next(iter(seconds))
    told = ", ".join(f"{name} {1000 * each:.0f} ms" for name, each in seconds.items() if each)
    measured = f"fastest of those tried (one UNet pass of {keys[0].build.unet_batch} rows: {told})"
    note(f"backend {fastest}: {measured if len(seconds) > 1 else 'others fail here, or are known to be slower'}")
    return made or find_or_make(by_name[fastest], source)


def chosen_before(keys: list[Key], engines: Path) -> Key | None:
    """The key that `choose` would open: of several the fastest, None where they have not been measured yet."""
    if len(keys) == 1:
        return keys[0]
    if not (path := choice_file(keys, engines)).exists():
        return None
    by_name = {name_of(key): key for key in keys}
    return by_name[next(iter(_remembered(path, set(by_name))))]


def choice_file(keys: list[Key], engines: Path) -> Path:
    """Where the times of engines that were measured are remembered."""
    digest = hashlib.sha256("".join(key.digest() for key in keys).encode()).hexdigest()[:16]
    return engines / f"auto-{digest}.json"


def name_of(key: Key) -> str:
    """Backend and precision, as --backend of `fglfast bench` takes them."""
    return f"{key.build.backend}:{key.build.precision}"


def _remembered(path: Path, names: set[str]) -> dict[str, float | None]:
    """The times that were measured before, of each backend, the fastest first; None of one that had no rival."""
    hint = "delete it, and the backends are measured again"
    seconds = read_object(path, MOST_TIMES, hint)
    times = all(isinstance(time, float) and 0 < time < math.inf for time in seconds.values())
    if not seconds or not seconds.keys() <= names or not (times or list(seconds.values()) == [None]):
        raise BadInputError(f"{path}: not the times of {', '.join(sorted(names))}", hint)
    return dict(sorted(seconds.items(), key=lambda entry: entry[1] or 0.0))
