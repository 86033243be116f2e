"""The noise that images are made of, keyed by their identity. Knows no network."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fglfast.synthesis.plan import Item


def starting_noise(seed: int, item: Item, shape: tuple[int, int, int], step: int = 0) -> NDArray[np.float32]:
    """Standard normal noise [C,H,W] of one image, by counter-based Philox keyed by its identity.

    The same at any batch size, rank count, order or resume (Salmon et al., SC 2011). Of the 128 bits of the key the
    upper 64 count the draws. Step 0 is what the image starts from, the others are what a stochastic solver adds: each
    begins 2^32 blocks of four numbers after the last.
    """
    bits = np.random.Philox(key=seed | item.draw << 64, counter=[step << 32, item.label, item.row, item.ordinal])
    return np.random.Generator(bits).standard_normal(shape, dtype=np.float32)


def starting_noises(
    seed: int, items: Sequence[Item], shape: tuple[int, int, int], step: int = 0
) -> NDArray[np.float32]:
    """Starting noise of some images [B,C,H,W], or what is added at a later step."""
    return np.stack([starting_noise(seed, item, shape, step) for item in items])
