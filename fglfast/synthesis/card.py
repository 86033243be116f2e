"""The card of a data set that `synthesize` drew, as the Hugging Face Hub shows it."""

from fglfast.synthesis.drawn import Drawn


def card(drawn: Drawn) -> str:
    """A Hugging Face data-set card."""
    names = "\n".join(f"- {_plain(name)}" for name in drawn.class_names)
    facts = drawn.sampling.model_dump(mode="json").items()
    sampling = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in facts)
    return f"""---
task_categories: [image-classification]
tags: [synthetic, federated-generative-learning, webdataset]
configs:
- config_name: default
  data_files:
  - split: train
    path: "train-*.tar"
---
# A synthetic data set by fglfast

{drawn.images} images of {drawn.image_size}x{drawn.image_size} pixels, {drawn.images_per_class} a class,
in {drawn.shards} WebDataset shards (`KEY.{drawn.image_format}`, `KEY.cls`, `KEY.json`).
**No image is a photograph**: each was drawn by a diffusion model from a prompt embedding that a federated client sent
(Federated Generative Learning, arXiv 2306.16064).

- generator: `{_plain(drawn.model)}`, weights `{drawn.weights[:16]}`
- sampling: {sampling}, plan seed {drawn.seed}
- clients: {len(drawn.clients)}; plan `{drawn.plan[:16]}`

Every `KEY.json` names the image's class, embedding row (by the digest of its content), ordinal, seed and engine, from
which it can be drawn again; `dataset.json` says which clients sent the row. Labels are the prompts' classes, unchecked:
expect some noise. The images inherit the generator's biases and licence.

## Classes
{names}
"""


def _plain(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>#|" else letter for letter in text)
