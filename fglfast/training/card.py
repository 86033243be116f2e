"""The card of a trained model, as the Hugging Face Hub shows it: what it learned from, and what is not known of it."""

from pathlib import Path

from fglfast.base.wording import plain, some
from fglfast.shards.description import Description
from fglfast.training.results import AdaptResult, TrainResult
from fglfast.training.settings import TrainSettings

NAMED = 50  # classes; config.json has all

TEXT = """---
library_name: transformers
pipeline_tag: image-classification
tags: [{tags}]
---
# An image classifier by fglfast

It learned from {source}, data set plan `{plan}`.

- {classes:,} classes: {names}
- architecture `{arch}`, {parameters:,} weights; {epochs} epochs in batches of {batch}, seed {seed}
- {held_out}

```python
from transformers import pipeline

pipeline("image-classification", FOLDER)("photo.jpg")  # the middle square; put what is transparent on white yourself
```

How well it names real images is not in here: test it on your own, `fglfast evaluate FOLDER PATH[:SPLIT]`. Where your
images look otherwise, `fglfast adapt FOLDER PATH[:SPLIT] --out FITTED` fits it to them. It inherits the biases of what
it learned from{licence}.
"""

DRAWN = """**synthetic images alone**: {images:,} of {size}x{size} pixels, drawn by the diffusion model `{model}` from
prompts (Federated Generative Learning, arXiv 2306.16064)"""
PACKED = "{images:,} labelled images of {size}x{size} pixels, none of them drawn by fglfast"

FITTED = """---
library_name: transformers
pipeline_tag: image-classification
---
# An image classifier by fglfast, fitted to one client

Last layer: {layer}; by {shots:,} labelled images of {classes:,} classes and {others:,} images without labels (OpTA,
arXiv 2402.02444). Those are private, and the last layer may tell of them: this folder is not for publishing.
"""


def card(result: TrainResult, settings: TrainSettings, description: Description, size: int) -> str:
    """The card's text; the images of the data set were learned at a side of `size` pixels."""
    held_out, model = "no image was held out", plain(description.model)
    if result.val_accuracy is not None:
        of = f"{result.validation_images:,} {'synthetic ' if model else ''}images that were held out"
        held_out = f"{result.val_accuracy:.1%} of {of}{': that says little of real ones' if model else ''}"
    return TEXT.format(
        tags="federated-generative-learning, synthetic" if model else "image-classification",
        source=(DRAWN if model else PACKED).format(images=result.images, size=size, model=model),
        licence=", and the generator's licence may bind too" if model else "",
        plan=plain(description.plan[:16]),
        classes=len(description.class_names),
        names=some([plain(name) for name in description.class_names], NAMED),
        arch=plain(Path(settings.arch).name),
        parameters=result.parameters,
        epochs=result.epochs,
        batch=settings.batch_size,
        seed=settings.seed,
        held_out=held_out,
    )


def fitted_card(result: AdaptResult) -> str:
    """The card of a model that was fitted to a client."""
    return FITTED.format(**result.model_dump())
