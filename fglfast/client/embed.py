"""Private images to a payload: prompts, then text embeddings. Knows nothing of images' storage."""

from pathlib import Path
from typing import Literal

import numpy as np

from fglfast.attributes import describe
from fglfast.client.prompts import PromptRow, class_level_prompts, instance_level_prompts
from fglfast.dataset import LabelledImages
from fglfast.payload import Payload, PayloadHeader
from fglfast.text import load_prompts, native_image_size
from fglfast.text_encoder import TextEncoder

PromptLevel = Literal["class", "instance"]


def embed(
    dataset: LabelledImages,
    client: str,
    model: Path,
    prompt_level: PromptLevel = "class",
    send: Literal["embeddings", "tokens"] = "embeddings",
    template: str | None = None,
) -> Payload:
    """Describe a client's images by prompts and encode those.

    Args:
        dataset: the client's private images.
        client: its name.
        model: the generator's diffusers directory.
        prompt_level: one prompt a class, or class and caption of each image.
        send: text embeddings, or the prompts' token ids, which the server encodes.
        template: overrides the model's prompt template.
    """
    encoder = TextEncoder.load(model)
    rows = _prompts(dataset, model, prompt_level, template)
    token_ids_NL = encoder.tokenize([row.prompt for row in rows])
    header = PayloadHeader(
        client=client, class_names=dataset.class_names, prompt_level=prompt_level, text_encoder=encoder.fingerprint
    )
    return Payload(
        header=header,
        embeddings=encoder.encode(token_ids_NL).astype(np.float16) if send == "embeddings" else None,
        token_ids=token_ids_NL if send == "tokens" else None,
        labels=np.array([row.label for row in rows], dtype=np.int64),
        counts=np.array([row.count for row in rows], dtype=np.int64),
    )


def _prompts(dataset: LabelledImages, model: Path, level: PromptLevel, template: str | None) -> list[PromptRow]:
    prompts = load_prompts(model)
    if level == "class":
        counts = [int(count) for count in dataset.counts()]
        return class_level_prompts(dataset.class_names, counts, template or prompts.class_level)
    size = native_image_size(model)
    images = (dataset.pixels(index, size) for index in range(len(dataset)))
    labels = dataset.labels.tolist()
    return instance_level_prompts(images, labels, dataset.class_names, template or prompts.instance_level, describe)
