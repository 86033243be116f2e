"""The pieces of work that are timed, each a function without arguments."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fglfast.base.console import stderr
from fglfast.engine.build import Engine
from fglfast.generator.text import load_prompts, text_fingerprint
from fglfast.generator.tokens import load_tokenizer
from fglfast.payload import Payload, PayloadHeader
from fglfast.payload.merge import Merged, merge_payloads
from fglfast.sampler.schedule import Sampling
from fglfast.shards.tar import ImageFormat, shard_name
from fglfast.synthesis.plan import Item
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import SynthesisResult, synthesize
from fglfast.synthesis.writer import Shard, ShardWriter

CLASSES = ("bag", "dress")
ENCODED_BATCH = 8
FALL, COLOUR = 1.5, 0.1


class Synthesis:
    """`synthesize` into an empty temporary folder: text rows to written shards.

    Attributes:
        images: of a round, a multiple of the number of classes.
        results: what each round answered.
    """

    def __init__(self, engine: Engine, sampling: Sampling, images: int) -> None:
        self.engine, self.images, self.merged = engine, images, payload_rows(engine)
        self.settings = SynthesisSettings(images_per_class=images // len(CLASSES), shard_size=images, sampling=sampling)
        self.results: list[SynthesisResult] = []

    def __call__(self) -> None:
        """Draw the images and forget them."""
        with tempfile.TemporaryDirectory() as folder, quiet():
            self.results.append(synthesize(self.engine, self.merged, self.settings, Path(folder)))


def payload_rows(engine: Engine) -> Merged:
    """The class-level payload of one client that holds an image of each of `CLASSES`."""
    prompts = [load_prompts(engine.model).class_level.format(label=name) for name in CLASSES]
    tokens_NT = torch.from_numpy(load_tokenizer(engine.model).tokenize(prompts)).long()
    header = PayloadHeader(
        client="bench", class_names=CLASSES, prompt_level="class", text_encoder=text_fingerprint(engine.model)
    )
    payload = Payload(
        header=header,
        embeddings=engine.networks.encode(tokens_NT).numpy().astype(np.float16),
        token_ids=None,
        labels=np.arange(len(CLASSES)),
        counts=np.ones(len(CLASSES), dtype=np.int64),
    )
    return merge_payloads([payload])


class Encoding:
    """Encode images of a side in pixels and write them as one shard, as `synthesize` does beside the denoiser.

    Attributes:
        bytes: of the last round's shard.
    """

    def __init__(self, image_format: ImageFormat, side: int, images: int) -> None:
        self.image_format, self.images, self.bytes = image_format, images, 0
        self.pixels_NHWC = photograph_like(min(images, ENCODED_BATCH), side)

    def __call__(self) -> None:
        """Encode, write, sync, forget."""
        items = [Item(index, 0, 0, index, "bench", "") for index in range(self.images)]
        size = len(self.pixels_NHWC)
        with (
            tempfile.TemporaryDirectory() as folder,
            ShardWriter(self.image_format, lambda item: {"index": item.index, "engine": "bench"}) as writer,
        ):
            waiting = writer.items([Shard(Path(folder) / shard_name(0), items, items)])
            while part := list(islice(waiting, size)):
                writer.add(part, self.pixels_NHWC[: len(part)])
        self.bytes = writer.bytes


def photograph_like(count: int, side: int) -> NDArray[np.uint8]:
    """Noise whose amplitudes fall with frequency as a photograph's do, with faint colour: uint8 [N,S,S,3].

    White noise is harder on an encoder than any image, a flat one easier. With these two constants PNG and WebP
    take 0.55 and 0.09 of the pixels' bytes at 512x512, as they do of a portrait photograph (0.56 and 0.08).
    """
    random = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(random.standard_normal((count, 4, side, side))) / frequency**FALL
    fields = np.fft.irfft2(spectrum, s=(side, side))
    fields /= fields.std(axis=(2, 3), keepdims=True)
    colours_NHWC = np.moveaxis(fields[:, :1] + COLOUR * fields[:, 1:], 1, -1)
    return np.clip(128 + 50 * colours_NHWC, 0, 255).astype(np.uint8)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep progress bars of the timed work off the terminal."""
    before, stderr.quiet = stderr.quiet, not os.environ.get("FGLFAST_DEBUG")
    try:
        yield
    finally:
        stderr.quiet = before
