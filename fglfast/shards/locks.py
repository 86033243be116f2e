"""One run at a time in the folder of a data set, of any number of ranks."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
            raise UsageError(f"{out}: another run is writing here", "wait for it, or choose another --out")
        yield
