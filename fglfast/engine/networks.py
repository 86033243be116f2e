"""The three networks of a compiled generator as plain functions. Knows no backend.

The sampler sees `Denoiser` only; whoever compiled it, whatever its fixed batch, is hidden here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fglfast.sampler.sample import Denoiser


@dataclass(frozen=True)
class Networks:
    """A loaded engine: text encoder, denoiser and VAE decoder, for any number of rows.

    Attributes:
        encode: token ids [B,L] int64 -> text embeddings [B,L,D] float32.
        denoise: see `Denoiser`.
        decode: latents [B,C,H,W] as the sampler leaves them -> images [B,3,8H,8W] (4H for mini) in [-1,1].
    """

    encode: Callable[[Tensor], Tensor]
    denoise: Denoiser
    decode: Callable[[Tensor], Tensor]


def chunks(batch: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut tensors with equal first dimensions into chunks of exactly `batch` rows, the last one padded.

    A compiled network has one batch size: padding the tail costs a few rows, recompiling costs minutes.
    """
    rows = len(tensors[0])
    for start in range(0, rows, batch):
        yield tuple(_padded(tensor[start : start + batch], batch) for tensor in tensors)


def in_chunks(function: Callable[..., Tensor], batch: int) -> Callable[..., Tensor]:
    """Make a function of exactly `batch` rows into one of any number of rows."""

    def run(*tensors: Tensor) -> Tensor:
        outputs = [function(*chunk) for chunk in chunks(batch, *tensors)]
        return torch.cat(outputs)[: len(tensors[0])] if len(outputs) > 1 else outputs[0][: len(tensors[0])]

    return run


def _padded(tensor: Tensor, batch: int) -> Tensor:
    missing = batch - len(tensor)
    return tensor if missing == 0 else torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])])
