"""The end of a call that takes too long. Imports next to nothing."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fglfast.base.console import note
from fglfast.base.errors import ExitCode


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """End the process, whatever it is at, when the block takes so long: exit code 5.

    The contenders end too, for their standard input closes; a half-built engine is never found.
    """

    def end() -> None:
        note(f"error: not done after {seconds} s; every row that was finished is kept, and what was built")
        note("  hint: run the same command again, until it prints the table")
        os._exit(ExitCode.INCOMPLETE)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
