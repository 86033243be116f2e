"""Who writes what in the folder of a data set: one run at a time, of any number of ranks, which claim shards."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fglfast.base.errors import UsageError
from fglfast.base.files import exclusive, is_held
from fglfast.shards.description import LOCKS


@contextmanager
def locked(out: Path, rank: int = 0, world_size: int = 1) -> Iterator[None]:
    """Keep a second run out of a claimed folder: each rank holds a lock file of its own.

    A run of as many ranks meets those files, and one of another number looks for them: two that wrote the same shard
    could leave it damaged under its final name.

    Raises:
        UsageError: another run is at work here.
    """
    locks, own = out / LOCKS, f"-of-{world_size}"
    with exclusive(locks / f"{rank}{own}", wait=False) as free:
        others = (path for path in locks.glob("*-of-*") if not path.name.endswith(own))
        if not free or any(map(is_held, others)):
            raise UsageError(f"{out}: another run is writing here", "wait until it has ended")
        yield


class Claim:
    """Some consecutive shards that no other rank draws while this is held; the claim of a killed rank is free again.

    Attributes:
        numbers: the shards that are still to be written, ascending.
    """

    def __init__(self, lock: FileLock, numbers: list[int]) -> None:
        self.lock, self.numbers, self._left = lock, numbers, set(numbers)

    @classmethod
    def attempt(cls, out: Path, group: range) -> "Claim | None":
        """Claim a group of shards; None if another rank has it."""
        path = out / LOCKS / f"shards-{group.start}"
        lock = FileLock(path, timeout=0, thread_local=False)  # given back by the thread that writes the last shard
        try:
            lock.acquire()
        except Timeout:
            return None
        return cls(lock, list(group))

    def keep(self, numbers: list[int]) -> None:
        """Lessen the claim to these shards, the others being written; without any it is given back."""
        self.numbers, self._left = numbers, set(numbers)
        self._give_back_if_done()

    def done(self, number: int) -> None:
        """Tell that a shard is written; with the last the claim is given back."""
        self._left.discard(number)
        self._give_back_if_done()

    def give_up(self) -> None:
        """Let others draw what is not written."""
        self.lock.release()

    def _give_back_if_done(self) -> None:
        if not self._left:
            # Whoever opened the file before this holds a lock that excludes nobody, and finds nothing left to draw.
            Path(self.lock.lock_file).unlink(missing_ok=True)
            self.lock.release()
