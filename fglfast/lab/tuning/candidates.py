"""What is tried: every combination of the lists, each that draws the same images once."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, field_validator

from fglfast.base.config import Settings, first_problem
from fglfast.base.errors import UsageError
from fglfast.sampler.schedule import EVERYWHERE, Sampling, Schedule, Share

UNGUIDED = 1.0

Steps = Annotated[int, Field(ge=1, le=1000)]
Guidance = Annotated[float, Field(ge=0.0, le=50.0)]
Interval = tuple[Share, Share]
Count = Annotated[int, Field(ge=1, le=10_000_000)]


class Grid(Settings):
    """The lists whose combinations are tried.

    Attributes:
        steps: solver steps.
        guidance: guidance scales; 1 is unguided.
        intervals: lowest and highest noise level that is guided, as shares of the range of timesteps trained on.
        images_per_class: synthetic images of each class.
    """

    steps: tuple[Steps, ...] = Field(min_length=1)
    guidance: tuple[Guidance, ...] = Field(min_length=1)
    intervals: tuple[Interval, ...] = Field(min_length=1)
    images_per_class: tuple[Count, ...] = Field(min_length=1)

    @field_validator("intervals")
    @classmethod
    def _ascending(cls, intervals: tuple[Interval, ...]) -> tuple[Interval, ...]:
        for low, high in intervals:
            if low >= high:
                raise ValueError(f"{low:g}:{high:g} is empty, give LOW:HIGH")
        return intervals

    @classmethod
    def parse(
        cls, steps: Sequence[str], guidance: Sequence[str], intervals: Sequence[str], images_per_class: Sequence[str]
    ) -> "Grid":
        """The lists as a command line has them: repeated, or separated by commas; intervals as LOW:HIGH.

        Raises:
            UsageError: a list is empty, or a value is none or out of range.
        """
        lists = {
            "steps": _split(steps),
            "guidance": _split(guidance),
            "intervals": [tuple(interval.split(":")) for interval in _split(intervals)],
            "images_per_class": _split(images_per_class),
        }
        try:
            return cls.model_validate(lists)
        except ValidationError as error:
            hint = "lists look like --steps 4,8 --guidance 1,1.5 --interval 0:1,0.2:0.8 --images-per-class 150,300"
            raise UsageError(first_problem(error), hint) from error


class Candidate(Settings):
    """One choice: how images are sampled, and how many."""

    sampling: Sampling
    images_per_class: int

    @property
    def name(self) -> str:
        """What tells it from all others of a sweep, fit for a file name."""
        low, high = self.sampling.guidance_interval
        interval = "" if (low, high) == EVERYWHERE else f"-interval{low:.12g}-{high:.12g}"
        guidance = f"guidance{self.sampling.guidance_scale:.12g}{interval}"
        return f"steps{self.sampling.steps}-{guidance}-images{self.images_per_class}"

    @property
    def words(self) -> str:
        """The choice for people."""
        low, high = self.sampling.guidance_interval
        within = "" if (low, high) == EVERYWHERE else f" within {low:g} to {high:g}"
        guided = f"guidance {self.sampling.guidance_scale:g}{within}"
        how = "unguided" if self.sampling.guidance_scale == UNGUIDED else guided
        return f"{self.sampling.steps} steps, {how}, {self.images_per_class} images a class"


def candidates(grid: Grid, base: Sampling, model: Path) -> list[Candidate]:
    """Every combination of the lists, in a recipe's solver and spacing; of those that draw the same images the first.

    Raises:
        UsageError: a solver or spacing does not fit the model or the number of steps.
    """
    found: dict[tuple[object, ...], Candidate] = {}
    for steps, scale, interval, count in product(grid.steps, grid.guidance, grid.intervals, grid.images_per_class):
        sampling, guided = _plain(base.changed(steps, scale, interval), model)
        same = (steps, sampling.guidance_scale, guided, count)
        found.setdefault(same, Candidate(sampling=sampling, images_per_class=count))
    return list(found.values())


def _plain(sampling: Sampling, model: Path) -> tuple[Sampling, tuple[bool, ...]]:
    """The plainest sampling that draws the same images, and which of its steps are guided."""
    schedule = Schedule.of_model(model, sampling)
    guided = tuple(rows > 1 for _, rows in schedule.rows())
    if not any(guided):
        sampling = sampling.changed(guidance_scale=UNGUIDED, guidance_interval=EVERYWHERE)
    elif all(guided):
        sampling = sampling.changed(guidance_interval=EVERYWHERE)
    return sampling, guided


def _split(texts: Sequence[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]
