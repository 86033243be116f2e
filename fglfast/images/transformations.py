"""Ways in which other people's images differ from a server's own: what it can teach a generator without any client.

They are those that image classifiers are tested with and trained by (ImageNet-C, Hendrycks and Dietterich, arXiv
1903.12261; RandAugment, Cubuk et al., 1909.13719), each fixed, so that equal images make equal ones.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

Transformation = Callable[[Image.Image], Image.Image]

SHIFT = 0.15  # of a side
NOISE = 40.0  # standard deviation, of 255


def _noisy(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float32)
    noise = np.random.default_rng(7).normal(0, NOISE, values.shape)
    return Image.fromarray(np.rint(values + noise).clip(0, 255).astype(np.uint8))


def _shifted(image: Image.Image) -> Image.Image:
    right, down = (round(SHIFT * side) for side in image.size)
    return image.transform(image.size, Image.Transform.AFFINE, (1, 0, -right, 0, 1, -down))


def _zoomed(image: Image.Image) -> Image.Image:
    left, top = (side // 6 for side in image.size)
    return image.crop((left, top, image.width - left, image.height - top)).resize(image.size, Image.Resampling.BICUBIC)


def _other_colours(image: Image.Image) -> Image.Image:
    red, green, blue = image.split()
    return Image.merge("RGB", (green, blue, red))


# Images are RGB. In an inventory of images without colours, the last one is the first once more.
TRANSFORMATIONS: dict[str, Transformation] = {
    "unchanged": lambda image: image,
    "inverted": ImageOps.invert,
    "rotated": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "rotated-right": lambda image: image.transpose(Image.Transpose.ROTATE_270),
    "upside-down": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(image.width / 20)),
    "brighter": lambda image: image.point(lambda level: min(255, 2 * level)),
    "darker": lambda image: image.point(lambda level: level // 3),
    "foggy": lambda image: image.point(lambda level: 140 + 115 * level // 255),
    "solarised": lambda image: ImageOps.solarize(image, 96),
    "edges": lambda image: image.filter(ImageFilter.FIND_EDGES),
    "noisy": _noisy,
    "shifted": _shifted,
    "zoomed": _zoomed,
    "other-colours": _other_colours,
}


def transformed(pixels_SS3: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """An image [S,S,3] as one of `TRANSFORMATIONS` makes it."""
    return np.asarray(TRANSFORMATIONS[name](Image.fromarray(pixels_SS3)))
