"""Which of several engines of a model: each is compiled and timed, and the fastest that passes the gate is kept.

Only the winner is held to the gate, and what was measured is remembered: a resumed run draws with the same engine.
"""

import hashlib
import json
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fglfast.base.console import note
from fglfast.base.errors import BadInputError
from fglfast.base.files import lock_of, write_atomic
from fglfast.base.timing import interleaved
from fglfast.base.untrusted import read_object
from fglfast.base.wording import first_line
from fglfast.engine.making import (
    Draft,
    Made,
    Source,
    compiled,
    find_or_make,
    finished,
    let_go,
    opened,
    place_for,
    prepared,
    require_writable,
    turn,
)
from fglfast.engine.manifest import Key
from fglfast.engine.networks import Networks
from fglfast.engine.passes import unet_pass
from fglfast.generator.load import Shapes

ROUNDS = 3
MOST_TIMES = 1 << 16  # bytes of a file of measured times


def choose(keys: list[Key], source: Source) -> Made:
    """Open the fastest of several engines, measured once.

    Ranks that start together take turns: measuring side by side, they could choose differently.

    Args:
        keys: they differ in backend and precision.
        source: the model.

    Raises:
        Exception: what the first one raised, where none works.
    """
    by_name = {name_of(key): key for key in keys}
    path = choice_file(keys, source.engines)
    made = None
    if not path.exists():
        require_writable(source.engines)
        with turn(lock_of(path), "the choice of a backend"):
            if not path.exists():
                contest = Contest(by_name, source)
                made = contest.held()
                write_atomic(path, json.dumps(contest.seconds) + "\n")
    seconds = remembered(path, set(by_name))
    ranked = sorted(seconds, key=seconds.__getitem__)
    told, rows = ", ".join(f"{name} {1000 * seconds[name]:.0f} ms" for name in ranked), keys[0].build.unet_batch
    note(f"backend {ranked[0]}: fastest of those tried (one UNet pass of {rows} rows: {told})")
    return made or find_or_make(by_name[ranked[0]], source)


def choice_file(keys: list[Key], engines: Path) -> Path:
    """Where the times of engines that were measured are remembered."""
    digest = hashlib.sha256("".join(key.digest() for key in keys).encode()).hexdigest()[:16]
    return engines / f"auto-{digest}.json"


def name_of(key: Key) -> str:
    """Backend and precision, as --backend of `fglfast bench` takes them."""
    return f"{key.build.backend}:{key.build.precision}"


def seconds_of(networks: Networks, shapes: Shapes, batch: int, rounds: int = ROUNDS) -> float:
    """Median seconds of one UNet pass of so many rows, after one to warm up."""
    return interleaved({"pass": unet_pass(networks, shapes, batch)}, rounds)["pass"].seconds


class Contest:
    """Engines of a model that are compiled and timed, one open at a time; those that fail are said to, and left out.

    Args:
        by_name: their keys, by name.
        source: the model.
    """

    def __init__(self, by_name: dict[str, Key], source: Source) -> None:
        self.by_name, self.source = by_name, source
        self.seconds: dict[str, float] = {}
        self.failed: dict[str, Exception] = {}

    def held(self) -> Made:
        """The fastest that passes the gate; what was compiled for the others is thrown away.

        Raises:
            Exception: what the first one raised, where none works.
        """
        with ExitStack() as stack:
            places = {name: stack.enter_context(place_for(key, self.source)) for name, key in self.by_name.items()}
            missing = [self.by_name[name] for name, place in places.items() if place]
            ready = prepared(missing, self.source, self._leave_out) if missing else None
            drafts: dict[str, Draft] = {}
            for name, place in places.items():
                key = self.by_name[name]
                if name not in self.failed:
                    with self._going_on_without(key):
                        if place:
                            drafts[name] = compiled(key, self.source, place, time.monotonic())
                        self._time(key, place or self.source.folder(key))
                    let_go()
            for name in sorted(self.seconds, key=self.seconds.__getitem__):
                key = self.by_name[name]
                with self._going_on_without(key):
                    if ready and name in drafts:
                        return finished(drafts[name], self.source, ready)
                    return opened(key, self.source)
                let_go()
            raise next(iter(self.failed.values()))

    def _time(self, key: Key, folder: Path) -> None:
        networks = self.source.load(key, folder)
        self.seconds[name_of(key)] = seconds_of(networks, self.source.shapes, key.build.unet_batch)

    @contextmanager
    def _going_on_without(self, key: Key) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each runtime has errors of its own, and the next may do
            self._leave_out(key, error)

    def _leave_out(self, key: Key, error: Exception) -> None:
        link: BaseException | None = error
        while link:
            link.__traceback__ = None  # it would hold the networks
            link = link.__cause__ or link.__context__
        name = name_of(key)
        self.failed[name] = error
        self.seconds.pop(name, None)
        note(f"backend {name} is left out: {first_line(error)}")


def remembered(path: Path, names: set[str]) -> dict[str, float]:
    """The times that were measured before, of each backend."""
    hint = "delete it, and the backends are measured again"
    seconds = read_object(path, MOST_TIMES, hint)
    times = all(isinstance(time, float) and 0 < time < math.inf for time in seconds.values())
    if not seconds or not seconds.keys() <= names or not times:
        raise BadInputError(f"{path}: not the times of {', '.join(sorted(names))}", hint)
    return seconds
