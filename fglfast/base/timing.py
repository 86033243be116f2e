"""Run several things in turn and say how long each took."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

from fglfast.base.config import Settings

Run = Callable[[], object]
# Four significant digits: a median of a few rounds holds no more.
Figure = Annotated[float, Field(gt=0, allow_inf_nan=False), AfterValidator(lambda value: float(f"{value:.4g}"))]


class Timing(Settings):
    """Seconds of several rounds of the same work.

    Attributes:
        seconds: the median.
        fastest: the shortest round.
        slowest: the longest round.
        rounds: how many; those that warmed up are not among them.
    """

    seconds: Figure
    fastest: Figure
    slowest: Figure
    rounds: int = Field(ge=1)

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Timing":
        """Sum up the seconds of the rounds."""
        return cls(seconds=statistics.median(seconds), fastest=min(seconds), slowest=max(seconds), rounds=len(seconds))

    @property
    def spread(self) -> float:
        """Half the range of the rounds, as a share of the median."""
        return (self.slowest - self.fastest) / (2 * self.seconds)


def interleaved(
    runs: Mapping[str, Run],
    rounds: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    synchronise: Callable[[], None] | None = None,
    pause: float = 0.0,
) -> dict[str, Timing]:
    """Time each run once a round, all of them in turn: what slows the machine for a while slows all alike.

    Args:
        runs: what to time, by name; every round goes through them in this order.
        rounds: timed rounds.
        warmup: untimed rounds before.
        clock: seconds that only grow.
        synchronise: waits for what a run left going; by default for the GPU, if there is one.
        pause: seconds before each run: threads that wait for more work spin for a while, at the next one's cost.

    Returns:
        The timing of each run, by name.
    """
    wait = synchronise or wait_for_device
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(-warmup, rounds):
        for name, run in runs.items():
            time.sleep(pause)
            wait()
            started = clock()
            run()
            wait()
            if round_ >= 0:
                times[name].append(clock() - started)
    return {name: Timing.of(seconds) for name, seconds in times.items()}


def wait_for_device() -> None:
    """Wait until the GPU has done all it was given; without one there is nothing to wait for."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
