"""The model card of a pretrained generator: how it was made, how to load it, what it is not for."""

import json
from collections.abc import Sequence
from pathlib import Path

from fglfast.base.wording import plain, some
from fglfast.images.labelled import LabelledImages

NAMED = 20  # classes

CARD = """---
library_name: diffusers
pipeline_tag: text-to-image
---
# {name}: a small text-to-image model

Made by `fglfast pretrain` from {images:,} images of {classes} classes ({source}) at {size}x{size} pixels: {names}.

| stage | steps | wall seconds | last loss | on held-out images |
|---|---|---|---|---|
{stages}

The VAE's loss is L1 + mean square error + 2e-4 KL on images in [-1, 1]. Text encoder and UNet learned together the
velocity e - x0 of the linear flow x_t = (1 - t) x0 + t e in the VAE's latents, t logit-normal, from the prompts
{prompts}, where a caption is {captions}; every
tenth image came without a prompt, for guidance. The weights are the exponential moving average: float16, the text
encoder float32.{labels}

```python
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained(FOLDER)
pipeline({example}, height={size}, width={size}, num_inference_steps=12, guidance_scale=1.0).images[0]
```

{knows}
"""
CLASSES = """**The {images:,} images are labelled.** Who has them can train a classifier of these classes on them
directly, without a generator or any client: compare with that first (`public` in an experiment of `fglfast run`).

It knows these classes and this kind of picture, nothing else: any other prompt gives an image of one of them."""
CAPTIONS = """**It learned captions and no class.** Clients describe each image (`embed --prompt-level instance`); a
class name that no caption says means nothing to it.

It knows what the captions name and this kind of picture, nothing else."""


LABELS = """

`label_flow/` learned the images' labels, and tells the class of an image to `fglfast synthesize --judge label-flow`."""


def model_card(
    name: str,
    dataset: LabelledImages,
    image_size: int,
    measured: bool,
    captions: Sequence[str],
    state: Path,
    labelled: bool,
) -> str:
    """The card's text, from the data set and the metrics that each stage left in `state`.

    Captions are measured words, or came with the images; those given are of a model that learned them alone.
    """
    rows = []
    for stage in ("vae", "flow", *(["labels"] if labelled else [])):
        last = json.loads((state / f"{stage}-metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        judged = f"{last['held_out']:.4f}" if "held_out" in last else ""
        rows.append(f"| {stage} | {last['step']:,} | {last['seconds']:,.0f} | {last['loss']:.4f} | {judged} |")
    names = dataset.class_names
    return CARD.format(
        name=plain(name),
        images=len(dataset),
        classes=len(names),
        source=plain(Path(dataset.source).name),
        size=image_size,
        names=some([plain(name) for name in names], NAMED),
        stages="\n".join(rows),
        labels=LABELS if labelled else "",
        prompts="captions alone" if captions else "`label` and `label, caption`",
        knows=CAPTIONS if captions else CLASSES.format(images=len(dataset)),
        example=json.dumps((captions or names)[0], ensure_ascii=False),
        captions="the shade, texture and proportions measured on the image" if measured else "what came with the image",
    )
