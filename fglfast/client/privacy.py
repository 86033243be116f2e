"""Differential privacy of an upload: its budget, the noise that asks for, where that comes from.

What is protected is one image: two data sets of a client are neighbours if an image of the one is missing in the other,
or replaced by any other image of any class. A release is a vector to which each image adds a part that depends on no
other image, and Gaussian noise. Whatever is computed from a release, by the client or by anyone, costs nothing more.
"""

import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from fglfast.base.config import Settings, first_problem
from fglfast.base.errors import UsageError
from fglfast.base.extras import needing
from fglfast.payload import Privacy

Floats = NDArray[np.float64]

STANDS_OUT = 2.0  # standard deviations of its noise that a count must reach to be sent
DRAWS = 4  # of the operating system that make one Gaussian
MOST_EPSILON = 1e6  # far beyond what protects anybody; the search for the noise overflows at 1e154
BITS = 52  # of a uniform number: any of them, and a half, is a float64 to the bit


class Budget(Settings):
    """What a client's uploads may reveal of one image.

    Attributes:
        epsilon: privacy loss of all uploads together.
        delta: probability that it is larger; keep it below one over the number of images.
        clip: L2 norm to which is cut what a caption adds to a public prompt; None is the public prompts' own spread.
        uploads: how many uploads of the same images share the budget, this one among them.
    """

    epsilon: float = Field(gt=0, le=MOST_EPSILON, allow_inf_nan=False)
    delta: float = Field(1e-5, gt=0, lt=1)
    clip: float | None = Field(None, gt=0, allow_inf_nan=False)
    uploads: int = Field(1, ge=1)

    def statement(self, clip: float, noise: float) -> Privacy:
        """What the header of an upload says of it; `clip` 0 for embeddings that no image changes."""
        return Privacy(
            mechanism="gaussian",
            unit="image",
            epsilon=self.epsilon,
            delta=self.delta,
            uploads=self.uploads,
            clip=clip,
            noise=noise,
        )


def asked_budget(**options: float | None) -> Budget | None:
    """The budget that a command line asks for; options by name, those that were not given None.

    Raises:
        UsageError: there is no epsilon but something else, or a value is out of range.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if given and "epsilon" not in given:
        raise UsageError(f"--{min(given)} says how noise is added, and none is", "add --epsilon")
    try:
        return Budget.model_validate(given) if given else None
    except ValidationError as error:
        raise UsageError(f"--{first_problem(error)}", "for example --epsilon 2 --delta 1e-6") from error


def noise_scale(budget: Budget, sensitivity: float) -> float:
    """Standard deviation of the noise on each coordinate of a release.

    The exact condition of the Gaussian mechanism (Balle and Wang, arXiv 1805.06530, theorem 8) by dp-accounting. k
    uploads compose to one with noise smaller by the square root of k: exactly, and also if one depends on those before.

    Args:
        budget: of all uploads.
        sensitivity: L2 norm by which neighbouring data sets change the release at most.

    Raises:
        MissingExtraError: dp-accounting is not installed.
    """
    sigma = float(accounting().get_sigma_gaussian(budget.epsilon, budget.delta))
    return sensitivity * math.sqrt(budget.uploads) * sigma


def accounting() -> Any:
    """The package that finds the noise.

    Raises:
        MissingExtraError: dp-accounting is not installed.
    """
    with needing("privacy", "--epsilon"):
        import dp_accounting
    return dp_accounting


def gaussian(*shape: int) -> Floats:
    """Standard Gaussian noise from the operating system's cryptographic source; nothing can seed or repeat it.

    Floating-point noise is not the real numbers of the proof: the last bits of a sum can betray what it was added to
    (Mironov 2012). Each value is made of four draws, which makes that search hopeless in practice (Holohan and Braghin,
    arXiv 2107.10138), and the sums are rounded to float16 and whole counts before they leave; a proof this is not. The
    tails end at 8.2 standard deviations, beyond which lies a share of 2e-16.
    """
    from scipy.special import ndtri  # a thin client has no scipy

    words = np.frombuffer(os.urandom(8 * DRAWS * math.prod(shape)), dtype=np.uint64)
    uniform = ((words >> np.uint64(64 - BITS)).astype(np.float64) + 0.5) * 2.0**-BITS
    total: Floats = ndtri(uniform).reshape(DRAWS, *shape).sum(axis=0)
    return total / math.sqrt(DRAWS)


def stands_out(noisy_counts: Floats, noise: float) -> NDArray[np.bool_]:
    """Which counts are told apart from none; one of an absent thing is with a chance of 2.3%."""
    return noisy_counts >= STANDS_OUT * noise


def whole(noisy_counts: Floats) -> NDArray[np.int64]:
    """Counts as a payload carries them, at least 1."""
    return np.maximum(1, np.rint(noisy_counts)).astype(np.int64)
