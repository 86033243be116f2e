"""How figures stand in the cells of the README's tables. Knows no result."""

import math
from collections.abc import Sequence
from statistics import median

Table = tuple[Sequence[str], list[Sequence[str]]]  # the columns' heads, and the rows


def spread(values: Sequence[float], form: str = ".1%") -> str:
    """Median of the seeds and where they lie; one seed has no range, and infinity was never reached."""
    figures = (min(values), median(values), max(values))
    low, middle, high = ("never" if value == math.inf else f"{value:{form}}" for value in figures)
    return middle if len(values) == 1 or low == "never" else f"{middle} ({low} to {high})"
