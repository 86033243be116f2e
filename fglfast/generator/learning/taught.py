"""What a generator is taught with: the images and their prompts, and which are held apart to judge it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from fglfast.base.console import note
from fglfast.generator.architecture import MiniSettings, build_tokenizer
from fglfast.images.labelled import LabelledImages

HELD_OUT_SHARE, MOST_HELD_OUT = 0.05, 512  # of the images
LOOKED_AT = 64  # images, for their size
LONGEST = 77  # tokens, as CLIP's
# What a model's folder says of its prompts: whether it learned class names, or captions alone.
CLASSES = {"class_level": "{label}", "instance_level": "{label}, {caption}", "negative": ""}
CAPTIONS = {"class_level": "{label}", "instance_level": "{caption}", "negative": ""}


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


def prompts_of(dataset: LabelledImages, captions: Sequence[str], classes: bool) -> list[tuple[str, str]]:
    """The class-level and the instance-level prompt of each image; where classes are not said, both are its caption."""
    if not classes:
        return [(caption, caption) for caption in captions]
    names = [dataset.class_names[label] for label in dataset.labels]
    return [(name, f"{name}, {caption}") for name, caption in zip(names, captions, strict=True)]


def fitting(texts: Sequence[tuple[str, str]], model: MiniSettings) -> tuple[CLIPTokenizer, MiniSettings]:
    """A tokenizer of these prompts, and the model with room for them; says how many are cut all the same."""
    every = [text for pair in texts for text in pair]
    lengths = [len(ids) for ids in build_tokenizer(every, 1 << 20)(every).input_ids]
    room = min(LONGEST, max(model.max_tokens, -(-max(lengths) // 8) * 8))
    if cut := sum(length > room for length in lengths):
        note(f"{cut:,} of {len(every):,} prompts are longer than {room} tokens, and are cut there")
    return build_tokenizer(every, room), model.model_copy(update={"max_tokens": room})
