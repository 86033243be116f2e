"""Engines of a model against each other: they are compiled and timed, and the fastest that passes the gate is kept.

Only the winner is held to the gate. Those that are known to be behind are tried where all others fail.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fglfast.base.console import note
from fglfast.base.wording import first_line
from fglfast.engine.backends import behind as is_behind
from fglfast.engine.choice import name_of
from fglfast.engine.finding import Made, Source, opened
from fglfast.engine.making import Draft, compiled, finished, let_go, place_for, prepared
from fglfast.engine.manifest import Key
from fglfast.engine.passes import seconds_of


class Contest:
    """Engines of a model that are compiled and timed, one open at a time; those that fail are said to, and left out.

    Args:
        by_name: their keys, by name.
        source: the model.

    Raises:
        BadInputError: the model cannot be used.
    """

    def __init__(self, by_name: dict[str, Key], source: Source) -> None:
        self.by_name, self.source, self.shapes = by_name, source, source.shapes
        self.seconds: dict[str, float | None] = {}  # of a pass; None where there is nothing to compare with
        self.failed: dict[str, Exception] = {}

    def held(self) -> Made:
        """The fastest that passes the gate; what was compiled for the others is thrown away.

        Raises:
            Exception: what the first one raised, where none works.
        """
        behind = [name for name, key in self.by_name.items() if is_behind(key.build.backend, key.build.precision)]
        for names in ([name for name in self.by_name if name not in behind], behind):
            if made := self._best(names):
                return made
        raise next(iter(self.failed.values()))

    def _best(self, names: list[str]) -> Made | None:
        """The fastest of some; None where none of them works."""
        with ExitStack() as stack:
            places = {name: stack.enter_context(place_for(self.by_name[name], self.source)) for name in names}
            missing = [self.by_name[name] for name, place in places.items() if place]
            ready = prepared(missing, self.source, self._leave_out) if missing else None
            drafts: dict[str, Draft] = {}
            for name, place in places.items():
                key = self.by_name[name]
                if name not in self.failed:
                    with self._going_on_without(key):
                        if place:
                            drafts[name] = compiled(key, self.source, place, time.monotonic())
                        self.seconds[name] = self._time(key, place) if len(names) > 1 else None
                    let_go()
            for name in sorted(self.seconds, key=lambda name: self.seconds[name] or 0.0):
                key = self.by_name[name]
                with self._going_on_without(key):
                    if ready and name in drafts:
                        return finished(drafts[name], self.source, ready)
                    return opened(key, self.source)
                let_go()
            return None

    def _time(self, key: Key, place: Path | None) -> float:
        networks = self.source.load(key, place or self.source.folder(key), self.shapes)
        return seconds_of(networks, self.shapes, key.build.unet_batch)

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
