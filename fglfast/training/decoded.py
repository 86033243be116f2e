"""All images of a data set, decoded once into a file that the processes of a machine share as memory.

The file loses its name as soon as every process has opened it, so that however they end, the system takes it back.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fglfast.base.console import Progress, note
from fglfast.base.limits import NO_ROOM
from fglfast.base.wording import size
from fglfast.shards.index import SyntheticImages
from fglfast.training.batches import Pixels
from fglfast.training.world import World

SCRATCH = "FGLFAST_SCRATCH"  # names a folder on a fast disk of the machine
CHUNK = 1024  # images that are decoded at once: what a process holds of them beside the file
GPU_SHARE = 0.25  # of a GPU's free memory that images may take
WORTH_SAYING = 1e9  # bytes
NO_MEMORY_OF_FILES = (errno.ENODEV, errno.EINVAL, errno.EOPNOTSUPP)  # of file systems that cannot do this


def share_decoded(images: SyntheticImages, world: World, out: Path) -> Pixels:
    """Decode all images, each process of a machine its part of them, for all of them to see; all come here.

    The file lies in `out`, unless `FGLFAST_SCRATCH` names another folder.

    Returns:
        uint8 [N,3,S,S], on the GPU where it fits there, else in the file; where the disk has no room for that, the
        images as they were, which are decoded whenever they are asked for.

    Raises:
        BadInputError: an image cannot be used.
    """
    folder = Path(os.environ.get(SCRATCH) or out)
    number, count = world.on_machine()
    shape = (len(images), 3, images.image_size, images.image_size)
    with _file(folder / file_name(world, out), int(np.prod(shape)), world, number == 0) as path:
        if path is None:
            return images
        kept_N3SS = torch.from_numpy(np.memmap(path, np.uint8, "r+", shape=shape))
        world.wait()  # until the last has opened it
    mine = np.array_split(np.arange(len(images)), count)[number]
    shown = world.leads and kept_N3SS.numel() > WORTH_SAYING
    with Progress("decode" if shown else "", len(mine)) as progress:
        for begin in range(0, len(mine), CHUNK):
            rows = mine[begin : begin + CHUNK]
            kept_N3SS[rows] = images[rows]
            progress.advance(len(rows))
    world.wait()
    return _on_gpu(kept_N3SS, world.device) if world.device.type == "cuda" else kept_N3SS


def file_name(world: World, out: Path) -> str:
    """The same for all processes of a run on one machine, and of no other run there."""
    return f".decoded-{world.machine}-{hashlib.sha256(str(out).encode()).hexdigest()[:8]}"


@contextmanager
def _file(path: Path, needed: int, world: World, makes: bool) -> Iterator[Path | None]:
    """A file of so many bytes on every machine, while it has a name; None if one of them lacks the room.

    One process of each machine makes it, and takes its name away.
    """
    try:
        lacking = torch.tensor(int(makes and not _made(path, needed, world.leads)), device=world.device)
        yield path if not world.sum(lacking) else None
    finally:
        if makes:
            path.unlink(missing_ok=True)


def _made(path: Path, needed: int, tell: bool) -> bool:
    """Make a file and take its room on the disk: memory of a file without it ends a process that writes there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    free, kept = shutil.disk_usage(path.parent).free, f"{path.parent}: {size(needed)} of decoded images"
    if tell and needed > WORTH_SAYING:
        note(f"{kept} are kept there while it trains, {size(free)} are free")
    path.unlink(missing_ok=True)  # a killed run's
    try:
        with path.open("xb") as stream:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(stream.fileno(), 0, needed)
            else:
                stream.truncate(needed)
        np.memmap(path, np.uint8, "r+", shape=(1,))
    except OSError as error:
        if error.errno not in (*NO_ROOM, *NO_MEMORY_OF_FILES):
            raise
        path.unlink(missing_ok=True)
        note(
            f"{kept} cannot be kept there ({error.strerror}): every epoch decodes anew; {SCRATCH} names another folder"
        )
        return False
    return True


def _on_gpu(kept_N3SS: Tensor, device: torch.device) -> Tensor:
    """The images in the GPU's own memory, unless they would take too much of it."""
    free, _ = torch.cuda.mem_get_info(device)
    if kept_N3SS.numel() > GPU_SHARE * free:
        return kept_N3SS
    there_N3SS = torch.empty(kept_N3SS.shape, dtype=torch.uint8, device=device)
    for there, here in zip(there_N3SS.split(CHUNK), kept_N3SS.split(CHUNK), strict=True):
        there.copy_(here)
    return there_N3SS
