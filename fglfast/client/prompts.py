"""Prompts from labels and captions. Knows no model."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from string import Formatter

import numpy as np
from numpy.typing import NDArray

from fglfast.errors import UsageError

Captioner = Callable[[NDArray[np.uint8]], str]


@dataclass(frozen=True)
class PromptRow:
    """A prompt, its class, and the private images behind it."""

    label: int
    prompt: str
    count: int


def class_level_prompts(class_names: Sequence[str], counts: Sequence[int], template: str) -> list[PromptRow]:
    """One prompt for each class that the client has images of."""
    _check_template(template, {"label"})
    return [
        PromptRow(label, template.format(label=name), int(count))
        for label, (name, count) in enumerate(zip(class_names, counts, strict=True))
        if count
    ]


def instance_level_prompts(
    images: Iterable[NDArray[np.uint8]],
    labels: Iterable[int],
    class_names: Sequence[str],
    template: str,
    captioner: Captioner,
) -> list[PromptRow]:
    """Class and caption of each image; equal prompts are one row with a count, in order of class and text."""
    _check_template(template, {"label", "caption"})
    counted: dict[tuple[int, str], int] = {}
    for image, label in zip(images, labels, strict=True):
        prompt = template.format(label=class_names[label], caption=captioner(image))
        counted[int(label), prompt] = counted.get((int(label), prompt), 0) + 1
    return [PromptRow(label, prompt, count) for (label, prompt), count in sorted(counted.items())]


def _check_template(template: str, known: set[str]) -> None:
    try:
        fields = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise UsageError(f"prompt template {template!r}: {error}", "write it like '{label}, a photograph'") from error
    if "label" not in fields or fields - known:
        raise UsageError(
            f"prompt template {template!r} has fields {sorted(fields)}", f"use {{label}}, and of {sorted(known)} only"
        )
