"""The prompts that a generator is taught with, and a tokenizer that has room for them."""

from collections.abc import Sequence

from transformers import CLIPTokenizer

from fglfast.base.console import note
from fglfast.generator.architecture import MiniSettings, build_tokenizer
from fglfast.images.labelled import LabelledImages

LONGEST = 77  # tokens, as CLIP's
# What a model's folder says of its prompts: whether it learned class names, or captions alone.
CLASSES = {"class_level": "{label}", "instance_level": "{label}, {caption}", "negative": ""}
CAPTIONS = {"class_level": "{label}", "instance_level": "{caption}", "negative": ""}


def prompts_of(dataset: LabelledImages, captions: Sequence[str], classes: bool = True) -> list[tuple[str, str]]:
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
