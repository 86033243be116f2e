"""The four networks of a compiled generator as plain functions.

The sampler sees `Denoiser` only; whoever compiled it, whatever its fixed batch, is hidden here.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from fglfast.base.console import note
from fglfast.base.errors import FglError
from fglfast.generator.blocks import segment
from fglfast.sampler.sample import Denoiser


@dataclass(frozen=True)
class Networks:
    """A loaded engine: text encoder, text projection, denoiser and VAE decoder, for any number of rows.

    Attributes:
        encode: token ids [B,L] int64 -> text embeddings [B,L,D] float32.
        project: text embeddings [B,L,D] -> keys and values [B,L,E], left where `denoise` reads them.
        denoise: see `Denoiser`.
        decode: latents [B,C,H,W] as the sampler leaves them -> images [B,3,8H,8W] (4H for mini) in [-1,1].
        device: where they compute. What they are given there is answered there; what they are given elsewhere goes
            over and comes back.
    """

    encode: Callable[[Tensor], Tensor]
    project: Callable[[Tensor], Tensor]
    denoise: Denoiser
    decode: Callable[[Tensor], Tensor]
    device: str = "cpu"


def by_time(blocks: Sequence[Networks], widths: Sequence[int], boundaries: Sequence[float]) -> Networks:
    """Generators that share time as one; all rows of a pass are at one timestep.

    Args:
        blocks: by time; the first one's text encoder and decoder are taken.
        widths: channels of the keys and values of each.
        boundaries: timesteps at which one hands over to the next, descending.
    """
    columns = [slice(end - width, end) for width, end in zip(widths, accumulate(widths), strict=True)]

    def project(text_BLD: Tensor) -> Tensor:
        return torch.cat([block.project(text_BLD) for block in blocks], dim=-1)

    def denoise(latents_BCHW: Tensor, timestep_B: Tensor, text_BLE: Tensor) -> Tensor:
        own = segment(float(timestep_B[0]), boundaries)
        return blocks[own].denoise(latents_BCHW, timestep_B, text_BLE[..., columns[own]].contiguous())

    return Networks(blocks[0].encode, project, denoise, blocks[0].decode, blocks[0].device)


def chunks(batch: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut tensors with equal first dimensions into chunks of exactly `batch` rows, the last one padded.

    A compiled network has one batch size: padding the tail costs a few rows, recompiling costs minutes.
    """
    for parts in zip(*(tensor.split(batch) for tensor in tensors), strict=True):
        yield tuple(_padded(part, batch) for part in parts)


def in_chunks(function: Callable[..., Tensor], batch: int) -> Callable[..., Tensor]:
    """Make a function of exactly `batch` rows into one of any number of rows."""

    def run(*tensors: Tensor) -> Tensor:
        outputs = [function(*chunk) for chunk in chunks(batch, *tensors)]
        output = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
        return output.narrow(0, 0, len(tensors[0]))

    return run


def sent(tensor: Tensor, device: str) -> Tensor:
    """A tensor of the host where an engine computes: by page-locked memory, and without waiting for what runs there.

    On the CPU it is the tensor itself.
    """
    return tensor if device == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def staying(function: Callable[[Tensor], Tensor], device: str) -> Callable[[Tensor], Tensor]:
    """Make a function that answers where its input lies into one whose result lies on `device`."""
    return lambda tensor: function(tensor.to(device))


def in_chunks_that_fit(function: Callable[..., Tensor], batch: int, what: str) -> Callable[..., Tensor]:
    """As `in_chunks`, but a chunk that does not fit into the GPU's memory is halved, and stays so.

    Args:
        function: works on any number of rows.
        batch: rows of a chunk to begin with.
        what: the network's name, for people.

    Raises:
        FglError: by the function returned, when not even one row fits.
    """
    size = batch

    def run(*tensors: Tensor) -> Tensor:
        nonlocal size
        asked = size
        while (output := _if_it_fits(in_chunks(function, size), tensors)) is None:
            if size == 1:
                raise FglError(f"{what}: out of memory at one row", "use a smaller precision or image size")
            size = (size + 1) // 2
            torch.cuda.empty_cache()
        if size < asked:
            note(f"{what}: out of memory at {asked} rows a pass; going on with {size}")
        return output

    return run


def _if_it_fits(function: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> Tensor | None:
    """None when memory ran out; its own function, so that the failed pass is let go before the next."""
    try:
        return function(*tensors)
    except torch.OutOfMemoryError:
        return None


def _padded(tensor: Tensor, batch: int) -> Tensor:
    missing = batch - len(tensor)
    return tensor if missing == 0 else torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])])
