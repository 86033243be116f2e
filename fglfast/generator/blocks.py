"""Several networks that divide the timesteps between them, as one model: blockwise flow matching (arXiv 2510.21167).

A blockwise model is a model folder with a `blocks.json` and further model folders in it, each of which brings a UNet.
All else takes each block for a model of its own.
"""

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from pydantic import Field, model_validator

from fglfast.base.config import Settings
from fglfast.generator.configs import read_optional
from fglfast.generator.parts import BLOCK, BLOCKS

MOST_SHARES = 64


class Blocks(Settings):
    """`blocks.json`.

    Attributes:
        boundaries: timesteps at which a block hands over to the next, descending; one less than blocks.
    """

    boundaries: tuple[float, ...] = Field((), max_length=MOST_SHARES)

    @model_validator(mode="after")
    def _descend(self) -> "Blocks":
        if any(later >= earlier for earlier, later in pairwise(self.boundaries)):
            raise ValueError("boundaries: give descending timesteps")
        return self

    def folders(self, model: Path) -> tuple[Path, ...]:
        """Folders of a model's blocks by time; the first, its own, sees the most noise. Most models have no other."""
        later = (model / BLOCK.replace("*", str(number + 2)) for number in range(len(self.boundaries)))
        return (model, *later)

    def fingerprint(self, weights: Sequence[str]) -> str:
        """One fingerprint of those of all blocks; of a single one, its own."""
        if not self.boundaries:
            return weights[0]
        return hashlib.sha256((self.model_dump_json() + "".join(weights)).encode()).hexdigest()


def load_blocks(model: Path) -> Blocks:
    """How a model divides the timesteps between its blocks.

    Raises:
        BadInputError: its `blocks.json` cannot be used.
    """
    return read_optional(model / BLOCKS, Blocks)


def segment(timestep: float, boundaries: Sequence[float]) -> int:
    """Which of the blocks a timestep belongs to, counted from the noise."""
    return sum(timestep <= boundary for boundary in boundaries)
