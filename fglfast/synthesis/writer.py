"""Encode and write beside the denoiser: threads behind a bounded queue. Knows no model."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from fglfast.base.errors import FglError
from fglfast.shards.tar import ImageFormat, Sample, encode_image, write_shard
from fglfast.synthesis.plan import Item

QUEUED_BATCHES = 8
ENCODERS = 2

Describe = Callable[[Item], dict[str, object]]


class ShardWriter:
    """Takes batches of pixels in plan order and turns each finished shard into a tar.

    `add` returns at once unless `QUEUED_BATCHES` wait to be encoded: the bound keeps memory flat when
    a disk is slower than the generator.
    """

    def __init__(self, image_format: ImageFormat, describe: Describe) -> None:
        self.image_format, self.describe = image_format, describe
        self.encoders = ThreadPoolExecutor(ENCODERS, thread_name_prefix="encode")
        self.closer = ThreadPoolExecutor(1, thread_name_prefix="write")
        self.room = threading.Semaphore(QUEUED_BATCHES)
        self.shards: list[Future[int]] = []
        self.batches: list[Future[list[Sample]]] = []
        self.bytes = 0

    def add(self, items: Sequence[Item], pixels_BHWC: NDArray[np.uint8]) -> None:
        """Queue a batch of the current shard."""
        self.check()
        self.room.acquire()
        self.batches.append(self.encoders.submit(self._encode, items, pixels_BHWC))

    def finish_shard(self, path: Path, expected: str | None = None) -> None:
        """Write the current shard once its batches are encoded, as `write_shard` does; does not wait for it."""
        self.shards.append(self.closer.submit(self._write, path, self.batches, expected))
        self.batches = []

    def check(self) -> None:
        """Count finished shards and raise what went wrong in a thread."""
        done = [shard for shard in self.shards if shard.done()]
        self.bytes += sum(shard.result() for shard in done)
        self.shards = [shard for shard in self.shards if shard not in done]

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for batch in self.batches:
            batch.cancel()  # the open shard's, of a run that was stopped; what is drawn to the end is written
        self.encoders.shutdown()
        self.closer.shutdown()
        if kind is None:
            self.check()

    def _encode(self, items: Sequence[Item], pixels_BHWC: NDArray[np.uint8]) -> list[Sample]:
        try:
            return [
                Sample(f"{item.index:09d}", encode_image(pixels, self.image_format), item.label, self.describe(item))
                for item, pixels in zip(items, pixels_BHWC, strict=True)
            ]
        finally:
            self.room.release()

    def _write(self, path: Path, batches: list[Future[list[Sample]]], expected: str | None) -> int:
        try:
            samples = (sample for batch in batches for sample in batch.result())
            return write_shard(path, samples, self.image_format, expected)
        except OSError as error:
            raise FglError(
                f"{path}: cannot be written ({error.strerror})", "free space or mend the folder, run again"
            ) from error
