"""What a generator is taught with: the images and their prompts, and which are held apart to judge it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fglfast.base.console import note
from fglfast.images.labelled import LabelledImages

HELD_OUT_SHARE, MOST_HELD_OUT = 0.05, 512  # of the images
LOOKED_AT = 64  # images, for their size


@dataclass(frozen=True)
class Taught:
    """What the flow is taught with.

    Attributes:
        moments_N2CHW: posterior mean and deviation of every image's latents.
        tokens_NPL: its class-level and its instance-level prompt.
        learned: rows to learn from.
        held_out: rows to judge with.
    """

    moments_N2CHW: Tensor
    tokens_NPL: Tensor
    learned: Tensor
    held_out: Tensor


def held_apart(images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to learn from, and rows to judge with; of a single image both are that one."""
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    count = min(MOST_HELD_OUT, math.ceil(HELD_OUT_SHARE * images))
    return (order[count:] if count < images else order).sort().values, order[:count].sort().values


def tell_small(dataset: LabelledImages, size: int) -> None:
    """Note how many of a few images have fewer pixels than are asked for."""
    rows = range(0, len(dataset), -(-len(dataset) // LOOKED_AT))
    small = sum(min(dataset.image(row).size) < size for row in rows)
    if small:
        note(f"{small} of {len(rows)} images looked at are smaller than {size} pixels, and are enlarged")
