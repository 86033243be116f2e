"""The card of a data set that `synthesize` drew, as the Hugging Face Hub shows it."""

import json

from fglfast.base.wording import plain
from fglfast.synthesis.drawn import Drawn

FACTS = {"class": "int64", "row": "string", "ordinal": "int64", "seed": "int64", "engine": "string", "redraw": "int64"}
SCORE = {"score": "float64"}
MOST_LISTED = 50  # payloads; `dataset.json` has all


def card(drawn: Drawn) -> str:
    """A Hugging Face data-set card; by its head stock `datasets` finds the shards and the names of the labels."""
    names = "\n".join(f"- {plain(name)}" for name in drawn.class_names)
    facts = drawn.sampling.model_dump(mode="json").items()
    sampling = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in facts)
    return f"""---
task_categories: [image-classification]
tags: [synthetic, federated-generative-learning, webdataset]
license: other
license_name: that-of-the-generator
configs:
- config_name: default
  data_files:
  - split: train
    path: "train-*.tar"
dataset_info:
  features:
  - name: {drawn.image_format}
    dtype: image
  - name: cls
    dtype:
      class_label:
        names:
{_labels(drawn.class_names)}
  - name: json
    struct:
{_fields(FACTS | (SCORE if drawn.judge else {}))}
  - name: __key__
    dtype: string
  - name: __url__
    dtype: string
---
# A synthetic data set by fglfast

{drawn.images} images of {drawn.image_size}x{drawn.image_size} pixels, {drawn.images_per_class} a class,
in {drawn.shards} WebDataset shards (`KEY.{drawn.image_format}`, `KEY.cls`, `KEY.json`).
**No image is a photograph**: each was drawn by a diffusion model from a row of the payloads below (Federated Generative
Learning, arXiv 2306.16064).

- generator: `{plain(drawn.model)}`, weights `{drawn.weights[:16]}`
- sampling: {sampling}, plan seed {drawn.seed}
- clients: {len(drawn.clients)}; plan `{drawn.plan[:16]}`

Every `KEY.json` names the image's class, embedding row (by the digest of its content), ordinal, seed and engine, from
which it can be drawn again; `dataset.json` says which clients sent the row. Labels are the prompts' classes,
{"and the score says how well the image fits its own" if drawn.judge else "unchecked"}: expect some noise. The images
inherit the generator's biases and licence.

## Classes
{names}

## Payloads
{_payloads(drawn)}
"""


def _labels(class_names: tuple[str, ...]) -> str:
    """The names of the labels in YAML, where what is a string of JSON is a string."""
    quoted = (json.dumps(name, ensure_ascii=False) for name in class_names)
    return "\n".join(f"          '{label}': {name}" for label, name in enumerate(quoted))


def _fields(facts: dict[str, str]) -> str:
    return "\n".join(f"    - name: {name}\n      dtype: {kind}" for name, kind in facts.items())


def _payloads(drawn: Drawn) -> str:
    """The digest of what each client sent."""
    pairs = list(zip(drawn.clients, drawn.payloads, strict=True))
    lines = [f"- {plain(client)}: `{digest[:16]}`" for client, digest in pairs[:MOST_LISTED]]
    more = [f"- and {len(pairs) - MOST_LISTED} more, in `dataset.json`"] if len(pairs) > MOST_LISTED else []
    return "\n".join(lines + more)
