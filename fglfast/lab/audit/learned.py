"""What a curious server reads from learned embeddings: how well they say a single image.

An embedding was fitted to its images by the generator's loss, so that loss is what a member may have lower than other
images of its class; the loss under the class prompt, which nobody fitted, is what each image is held against. (Loss of
a diffusion model as the sign of a member: Matsumoto et al., arXiv 2302.03262; Carlini et al., arXiv 2301.13188.)
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fglfast.base.console import Progress
from fglfast.client.prompts import class_level_prompts
from fglfast.generator.learning.invert import encode_images, squared_errors
from fglfast.generator.learning.student import Task
from fglfast.generator.load import load_generator, own_device
from fglfast.generator.text import load_prompts, native_image_size
from fglfast.generator.text_encoder import TextEncoder
from fglfast.lab.audit.audited import AuditedImages
from fglfast.lab.audit.roc import Floats

DRAWS = 8  # of noise and time, the same for all images and texts
PASS = 64  # images at once

Rows = NDArray[np.int64]


def gains(model: Path, pool: AuditedImages, texts_RLD: NDArray[np.float16], rows_N: Rows) -> Floats:
    """How much lower the generator's loss on each image is under a learned text than under its class prompt [N].

    Args:
        model: the generator's folder.
        pool: the images.
        texts_RLD: learned embeddings.
        rows_N: which of them each image is held against; -1 for none, and a gain of 0.
    """
    reader, gains_N = _reader(model, pool), np.zeros(len(rows_N))
    images = np.flatnonzero(rows_N >= 0)
    learned = torch.from_numpy(texts_RLD.astype(np.float32))
    gains_N[images] = reader.prompted_N[images] - reader.losses(learned, rows_N[images], images)
    return gains_N


class _Reader:
    """A generator and a pool's latents.

    Attributes:
        prompted_N: losses under the class prompts.
    """

    def __init__(self, model: Path, pool: AuditedImages) -> None:
        self.task = Task.of_model(model)
        self.generator = load_generator(model, own_device())
        images, size = pool.images, native_image_size(model)
        self.latents_NCHW = encode_images(
            self.generator,
            (
                np.stack([images.pixels(int(row), size) for row in rows])
                for rows in np.array_split(np.arange(len(images)), -(-len(images) // PASS))
            ),
        )
        names = images.class_names
        prompts = class_level_prompts(names, [1] * len(names), load_prompts(model).class_level)
        encoder = TextEncoder.load(model)
        texts_KLD = torch.from_numpy(encoder.encode(encoder.tokenize([row.prompt for row in prompts])))
        self.prompted_N = self.losses(texts_KLD, images.labels, np.arange(len(images)))

    @torch.no_grad()
    def losses(self, texts_RLD: Tensor, rows_M: Rows, images_M: Sequence[int] | Rows) -> Floats:
        """Of some images, each under one of the texts: the mean of the same draws for all [M]."""
        device = self.generator.projection.linear.weight.device
        texts_RLE, latents_MCHW = self.generator.projection(texts_RLD.to(device)), self.latents_NCHW[images_M]
        noise_DCHW = torch.randn(DRAWS, *latents_MCHW.shape[1:], generator=torch.Generator().manual_seed(0))
        times_D = ((torch.arange(DRAWS) + 0.5) / DRAWS).sqrt()  # of density 2t, as they are learned at
        found: list[Tensor] = []
        with Progress("losses of images", len(rows_M)) as progress:
            for rows_B, data_BCHW in zip(torch.from_numpy(rows_M).split(PASS), latents_MCHW.split(PASS), strict=True):
                loss_B = torch.zeros(len(rows_B))
                for noise_CHW, t in zip(noise_DCHW, times_D, strict=True):
                    drawn = (data_BCHW, noise_CHW.expand_as(data_BCHW), t.expand(len(rows_B)))
                    errors = squared_errors(
                        self.generator, self.task, texts_RLE[rows_B.to(device)], *(part.to(device) for part in drawn)
                    )
                    loss_B += errors.mean(dim=(1, 2, 3)).cpu() / DRAWS
                found.append(loss_B)
                progress.advance(len(rows_B))
        return torch.cat(found).double().numpy()


@lru_cache(maxsize=1)  # all shadows of an audit ask of one pool
def _reader(model: Path, pool: AuditedImages) -> _Reader:
    return _Reader(model, pool)
