"""The noise that images are made of, keyed by their identity."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fglfast.synthesis.plan import Item


def starting_noise(seed: int, item: Item, shape: tuple[int, int, int], step: int = 0) -> NDArray[np.float32]:
    """Standard normal noise [C,H,W] of one image, by counter-based Philox keyed by its identity.

    The same at any batch size, rank count, order or resume, and whatever else a plan holds (Salmon et al., SC 2011).
    The identity's sha256 is the key and the upper 64 bits of the counter; the next hold the step and the draw, and the
    lowest count. Where an item stands does not matter. Step 0 is where sampling starts; a solver that draws noise as it
    goes asks for the others.
    """
    identity = json.dumps([seed, item.name, item.digest, item.ordinal]).encode()
    key = np.frombuffer(hashlib.sha256(identity).digest(), dtype="<u8")
    bits = np.random.Philox(key=key[:2], counter=np.array([0, step, item.draw, key[2]], dtype=np.uint64))
    return np.random.Generator(bits).standard_normal(shape, dtype=np.float32)


def starting_noises(
    seed: int, items: Sequence[Item], shape: tuple[int, int, int], step: int = 0
) -> NDArray[np.float32]:
    """Noise of some images [B,C,H,W], as `starting_noise`."""
    return np.stack([starting_noise(seed, item, shape, step) for item in items])
