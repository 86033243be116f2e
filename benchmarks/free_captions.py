"""Captions in free words of pictures of one thing on an empty ground, each made from its image alone. Knows no model.

They stand for what a person or a captioning model writes: finer than the measured words of
`fglfast.images.attributes`, of more things at once, in an order of the image's own, so that none is a public prompt.
The words are short, since the generator that they are for cuts a prompt after sixteen tokens.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fglfast.images.labelled import LabelledImages

SHADES = ("black", "dark", "grey", "pale", "light")
TEXTURES = ("plain", "lined", "patterned")
PROPORTIONS = ("narrow", "tall", "square", "wide")
WEIGHTS = ("top", "even", "low")
SHADE_BOUNDS = (0.46, 0.58, 0.67, 0.74)  # as below: about the quantiles of Fashion-MNIST
TEXTURE_BOUNDS = (0.06, 0.115)
PROPORTION_BOUNDS = (0.69, 0.81, 1.33)
WEIGHT_BOUNDS = (0.49, 0.53)
CONTRAST = 0.1  # of the thing against the border


def free_caption(image_SSC: NDArray[np.uint8]) -> str:
    """Such as "wide, dark, low, plain", of a square image."""
    gray_SS = image_SSC.astype(np.float64).mean(axis=2) / 255
    border = np.concatenate([gray_SS[0], gray_SS[-1], gray_SS[:, 0], gray_SS[:, -1]])
    thing_SS = np.abs(gray_SS - np.median(border)) > CONTRAST
    if not thing_SS.any():
        thing_SS = np.ones_like(thing_SS)
    rows, columns = np.nonzero(thing_SS)
    steps_SS = np.abs(np.diff(gray_SS, axis=0, prepend=gray_SS[:1]))
    words = [
        SHADES[int(np.searchsorted(SHADE_BOUNDS, gray_SS[thing_SS].mean()))],
        TEXTURES[int(np.searchsorted(TEXTURE_BOUNDS, steps_SS[thing_SS].mean()))],
        PROPORTIONS[int(np.searchsorted(PROPORTION_BOUNDS, (np.ptp(columns) + 1) / (np.ptp(rows) + 1)))],
        WEIGHTS[int(np.searchsorted(WEIGHT_BOUNDS, rows.mean() / len(gray_SS)))],
    ]
    draws = np.random.default_rng(list(hashlib.sha256(image_SSC.tobytes()).digest()))
    said = [words[place] for place in draws.permutation(len(words))[: draws.integers(2, len(words) + 1)]]
    return (", ", " ")[draws.integers(2)].join(said)


def free_captions(size: int, dataset: LabelledImages) -> Iterator[list[str]]:
    """Of all images, looked at in so many pixels a side: a captioner for `caption_all`, one image a batch."""
    return ([free_caption(dataset.pixels(row, size))] for row in range(len(dataset)))
