"""Prompts from labels and captions."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from string import Formatter

from fglfast.base.errors import UsageError


@dataclass(frozen=True)
class PromptRow:
    """A prompt, its class, and the private images behind it.

    Attributes:
        label: class.
        prompt: class name, and caption if it has one, in a template.
        count: private images.
        caption: empty at class level.
    """

    label: int
    prompt: str
    count: int
    caption: str = ""


def class_level_prompts(class_names: Sequence[str], counts: Sequence[int], template: str) -> list[PromptRow]:
    """One prompt for each class that the client has images of."""
    check_template(template, {"label"})
    return [
        PromptRow(label, template.format(label=name), int(count))
        for label, (name, count) in enumerate(zip(class_names, counts, strict=True))
        if count
    ]


def instance_level_prompts(
    captions: Iterable[str], labels: Iterable[int], class_names: Sequence[str], template: str
) -> list[PromptRow]:
    """Class and caption of each image, in order of class and text.

    Prompts of a class that are nearly identical (see `essence`) are one row with a count, worded as most of them are.
    """
    check_template(template, {"label", "caption"})
    alike: defaultdict[tuple[int, str], Counter[tuple[str, str]]] = defaultdict(Counter)
    for caption, label in zip(captions, labels, strict=True):
        prompt = template.format(label=class_names[label], caption=caption)
        alike[int(label), essence(prompt)][prompt, caption] += 1
    rows = [
        PromptRow(label, prompt, wordings.total(), caption)
        for (label, _), wordings in alike.items()
        for prompt, caption in [min(wordings, key=lambda text: (-wordings[text], text))]
    ]
    return sorted(rows, key=lambda row: (row.label, row.prompt))


def before(template: str, field: str) -> str | None:
    """What stands before a field of a template, itself a template; None if the field is not there."""
    told = ""
    for literal, name, _, _ in Formatter().parse(template):
        told += literal.replace("{", "{{").replace("}", "}}")
        if name == field:
            return told
        told += "" if name is None else f"{{{name}}}"
    return None


def essence(prompt: str) -> str:
    """What is the same in nearly identical prompts: Unicode form (NFKC), case, punctuation and spacing are not."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", prompt).casefold())
    return " ".join("".join(" " if unicodedata.category(letter)[0] == "P" else letter for letter in folded).split())


def encodable(text: str) -> bool:
    """Whether a text is Unicode throughout: JSON escapes and arguments in another encoding may bring half a letter."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_own(template: str) -> None:
    """Check the template that a user gives in place of the model's, before any work is done with it.

    Raises:
        UsageError: it is empty, or no Unicode.
    """
    problem = "" if encodable(template) else "not UTF-8 text"
    if problem := problem if template.strip() else "empty":
        hint = "write it like '{label}, a photograph', or leave it out for the model's own"
        raise UsageError(f"--template {template!r}: {problem}", hint)


def check_template(template: str, known: set[str]) -> None:
    """Check the fields of a template; none may have a format: one can ask for a gigabyte of spaces.

    Raises:
        UsageError: neither {label} nor, where it is known, {caption} is among them; or another than those `known`, or
            one with a format.
    """
    try:
        parts = [part for part in Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise UsageError(f"prompt template {template!r}: {error}", "write it like '{label}, a photograph'") from error
    fields = {f"{field}{'!' if conversion else ''}{':' if form else ''}" for _, field, form, conversion in parts}
    telling = known & {"label", "caption"}
    if not fields & telling or fields - known:
        use = " or ".join(f"{{{field}}}" for field in sorted(telling, reverse=True))
        hint = f"use {use}, and of {sorted(known)} only"
        raise UsageError(f"prompt template {template!r} has fields {sorted(fields)}", hint)
