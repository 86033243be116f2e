"""What prompts do not say, said to the client: what the text encoder's length cuts off, and names that are none."""

from collections.abc import Sequence

from fglfast.base.console import note
from fglfast.base.wording import some
from fglfast.client.prompts import PromptRow, before


def tell_cuts(rows: Sequence[PromptRow], kept: Sequence[str], class_names: Sequence[str], template: str) -> None:
    """Note which class names do not fit whole, and of how many images no word of the caption is left.

    Each prompt is `kept` as far as it is encoded.
    """
    name_from, caption_from = before(template, "label"), before(template, "caption")
    names: dict[str, str] = {}
    bare = 0
    for row, text in zip(rows, kept, strict=True):
        name, left = class_names[row.label], len(_letters(text))

        def filled(part: str, name: str = name, row: PromptRow = row) -> int:
            return len(_letters(part.format(label=name, caption=row.caption)))

        if name_from is not None and text != row.prompt and left < filled(f"{name_from}{{label}}"):
            names[name] = text
        if row.caption and (caption_from is None or (text != row.prompt and left <= filled(caption_from))):
            bare += row.count
    if names:
        told = some([f"{name!r} is sent as {text!r}" for name, text in names.items()])
        note(f"{len(names):,} class names are cut off: {told}")
    if bare:
        note(f"of {bare:,} of {sum(row.count for row in rows):,} images no word of the caption is left")


def tell_numbers(class_names: Sequence[str], prompt: str) -> None:
    """Note classes that have numbers for names, as tables of labels without names have: no generator knows those."""
    if all(name.strip().isdecimal() for name in class_names):
        told = f"the classes have numbers for names ({some(class_names)}), and prompts say no more: {prompt!r}"
        note(f"{told}; if they have names, give those (class_names of an npz, names in the label column)")


def _letters(text: str) -> str:
    """A text without what shortening it may take or alter beside words."""
    return "".join(text.split()).rstrip(",;:")
