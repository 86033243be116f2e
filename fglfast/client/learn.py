"""A client's images to a payload of learned embeddings, through the frozen generator. Knows how none of it works."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fglfast.base.console import Progress, note
from fglfast.base.errors import UsageError
from fglfast.base.files import claim, sole
from fglfast.client.embed import find_templates, make_header
from fglfast.client.prompts import class_level_prompts
from fglfast.client.settings import LearnSettings
from fglfast.generator.blocks import load_blocks
from fglfast.generator.fingerprints import weights_fingerprint
from fglfast.generator.learning.fitting import FitSettings
from fglfast.generator.learning.invert import Examples, LearnedText, check_generator, encode_images, invert, judge
from fglfast.generator.learning.student import Task
from fglfast.generator.load import Generator, load_generator, own_device, read_shapes
from fglfast.generator.text import native_image_size, text_fingerprint
from fglfast.generator.text_encoder import TextEncoder
from fglfast.images.labelled import LabelledImages
from fglfast.payload import Form, Payload, eight_bits

FIT = FitSettings(
    steps=LearnSettings().steps,
    batch_size=20,
    learning_rate=0.6,
    ema_decay=0.95,
    weight_decay=0.0,
    warmup_steps=10,
    seed=11,
)
BEGUN = "learn.json"  # what is learned, in the folder of its checkpoints
ENCODED = 32  # images that the VAE takes at once


@dataclass(frozen=True)
class Learned:
    """What came out.

    Attributes:
        payload: a row a class.
        class_level: the generator's loss on the client's images under their class prompts; None under a budget, which
            it is not part of.
        learned: the same, and for the same draws, under what was learned.
    """

    payload: Payload
    class_level: float | None = None
    learned: float | None = None


def learn(
    dataset: LabelledImages,
    client: str,
    model: Path,
    state: Path,
    settings: LearnSettings = LearnSettings(),  # noqa: B008 (frozen)
    send: Form = "embeddings",
    template: str | None = None,
    domain: str | None = None,
) -> Learned:
    """Fit the text embedding of each class to a client's images; killed, it goes on from its last checkpoint.

    Args:
        dataset: the client's private images.
        client: its name.
        model: the generator's diffusers directory.
        state: folder of the checkpoint and the logged loss.
        settings: how.
        send: in float16 or in eight bits.
        template: overrides the model's class-level prompt, which the embeddings begin as.
        domain: a word for all images; it stands in that prompt and in the header.

    Raises:
        UsageError: the client's name, the domain, the template or the number of vectors is refused, or the model is
            SDXL or a blockwise student.
        BadInputError: `state` was begun with other images, another model or other settings.
    """
    if send == "tokens":
        raise UsageError("learned embeddings have no token ids", "choose --send embeddings or int8")
    size = native_image_size(model)
    if load_blocks(model).boundaries:
        raise UsageError("no embeddings can be learned for a blockwise student", "use its teacher")
    check_generator(read_shapes(model, size), settings.vectors)
    header = make_header(client, dataset.class_names, "learned", text_fingerprint(model), domain)
    wording = find_templates(model, template, domain).class_level
    rows = class_level_prompts(dataset.class_names, dataset.counts().tolist(), wording)
    labels, counts = (np.array([getattr(row, key) for row in rows], dtype=np.int64) for key in ("label", "count"))
    generator, task = load_generator(model, own_device()), Task.of_model(model)
    prompts = [row.prompt for row in rows]
    encoder = TextEncoder.load(model)  # as `embed` has it: what is not learned is equal to the last bit
    prompts_KLD = torch.from_numpy(encoder.encode(encoder.tokenize(prompts))).to(
        generator.projection.linear.weight.device
    )
    text, fit = LearnedText(prompts_KLD, settings.vectors), FIT.model_copy(update={"steps": settings.steps})
    with sole(state, BEGUN):
        examples, images = read_examples(generator, dataset, labels, size)
        begun = {"images": images, "prompts": prompts, "model": weights_fingerprint(model), "vectors": settings.vectors}
        claim(state / BEGUN, begun, "embeddings of other images, another model or other settings")
        learned_KLD = invert(generator, task, examples, text, fit, state)
    losses = told_losses(generator, task, (prompts_KLD, learned_KLD), examples, fit.batch_size)
    payload = Payload(header, learned_KLD.cpu().numpy().astype(np.float16), None, labels, counts)
    return Learned(eight_bits(payload) if send == "int8" else payload, *losses)


def told_losses(
    generator: Generator, task: Task, texts: tuple[Tensor, Tensor], examples: Examples, batch_size: int
) -> tuple[float, float]:
    """The generator's loss on a client's images under the embeddings [K,L,D] of class prompts and of what was learned.

    Both are said.
    """
    before, after = (judge(generator, task, each.__getitem__, examples, batch_size) for each in texts)
    note(f"loss {before:.4f} with the class prompts, {after:.4f} with what was learned")
    return before, after


def read_examples(
    generator: Generator, dataset: LabelledImages, labels: NDArray[np.int64], size: int
) -> tuple[Examples, str]:
    """The images as latents, their classes numbered as `labels` lists them, and a digest of both."""
    seen = hashlib.sha256(dataset.labels.tobytes())

    def batches() -> Iterator[NDArray[np.uint8]]:
        with Progress("latents", len(dataset)) as progress:
            for rows in np.array_split(np.arange(len(dataset)), -(-len(dataset) // ENCODED)):
                batch_BSSC = np.stack([dataset.pixels(int(row), size) for row in rows])
                seen.update(batch_BSSC.data)
                yield batch_BSSC
                progress.advance(len(rows))

    latents_NCHW = encode_images(generator, batches())
    return Examples(latents_NCHW, torch.from_numpy(np.searchsorted(labels, dataset.labels))), seen.hexdigest()
