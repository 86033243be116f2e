"""Words measured from an image: shade, texture, proportions.

The public images that `mini` learns from and the private images that clients describe are captioned
by this one function, so a word means the same to the generator and to the client.
"""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from fglfast.base.extras import needing

SHADES = ("dark", "medium", "light")
TEXTURES = ("plain", "patterned")
PROPORTIONS = ("narrow", "square", "wide")

# Bounds near the terciles of Fashion-MNIST's public half; gray levels in [0, 1].
SHADE_BOUNDS = (0.50, 0.72)
TEXTURE_BOUND = 0.055
PROPORTION_BOUNDS = (0.60, 1.20)
FOREGROUND_CONTRAST = 0.1
MIN_FOREGROUND_SHARE = 0.01


def descriptions() -> tuple[str, ...]:
    """All that `describe` can say."""
    return tuple(" ".join(words) for words in product(SHADES, TEXTURES, PROPORTIONS))


def describe(image_HWC: NDArray[np.uint8]) -> str:
    """Describe an image in three measured words, such as "dark plain wide".

    Args:
        image_HWC: uint8 RGB image [H, W, 3] with values 0-255.

    Returns:
        Shade (mean gray level of the foreground), texture (mean distance of the foreground's inside
        from its 3x3 mean) and proportions (width over height of the foreground's box). The foreground
        is whatever differs from the median gray level of the border.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    with needing("embed", "measuring words in images"):
        from scipy import ndimage

    gray_HW = image_HWC.astype(np.float32).mean(axis=2) / 255.0
    mask_HW = _foreground(gray_HW)
    inside_HW = ndimage.binary_erosion(mask_HW, iterations=2)
    if not inside_HW.any():
        inside_HW = mask_HW
    roughness_HW = np.abs(gray_HW - ndimage.uniform_filter(gray_HW, 3))
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    width, height = int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1
    shade = SHADES[int(np.searchsorted(SHADE_BOUNDS, gray_HW[mask_HW].mean()))]
    texture = TEXTURES[int(roughness_HW[inside_HW].mean() > TEXTURE_BOUND)]
    proportion = PROPORTIONS[int(np.searchsorted(PROPORTION_BOUNDS, width / height))]
    return f"{shade} {texture} {proportion}"


def _foreground(gray_HW: NDArray[np.float32]) -> NDArray[np.bool_]:
    border = np.concatenate([gray_HW[0], gray_HW[-1], gray_HW[:, 0], gray_HW[:, -1]])
    mask_HW: NDArray[np.bool_] = np.abs(gray_HW - np.median(border)) > FOREGROUND_CONTRAST
    return mask_HW if mask_HW.mean() >= MIN_FOREGROUND_SHARE else np.ones_like(mask_HW)
