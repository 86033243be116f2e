"""Encode and write beside the denoiser: threads behind bounded queues."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from fglfast.base.limits import unwritable
from fglfast.shards.tar import ImageFormat, Sample, encode_image, write_shard
from fglfast.synthesis.plan import Item

QUEUED_BATCHES = 8
ENCODERS = 2
WRITERS = 4  # most of what they do is wait for the disk: shards of an image each are then hardly slower than large ones
QUEUED_SHARDS = 4 * WRITERS

Describe = Callable[[Item], dict[str, object]]


def _of_none(item: Item) -> Sample:
    raise AssertionError(f"{item} is neither drawn nor there")


@dataclass
class Shard:
    """A shard that is to be written.

    Attributes:
        path: of the tar.
        items: what it holds, in order.
        todo: those that are drawn.
        kept: gives the others.
        expected: sha256 that it must have; None takes any.
        done: called once it is written.
    """

    path: Path
    items: Sequence[Item]
    todo: Sequence[Item]
    kept: Callable[[Item], Sample] = _of_none
    expected: str | None = None
    done: Callable[[], None] = lambda: None
    drawn: list[tuple[Future[list[Sample]], int]] = field(default_factory=list)

    def samples(self) -> Iterator[Sample]:
        """What it holds, once it is encoded."""
        drawn = {sample.key: sample for batch, place in self.drawn for sample in [batch.result()[place]]}
        for item in self.items:
            yield drawn.get(key_of(item)) or self.kept(item)


class ShardWriter:
    """Takes batches of pixels in the order of `items` and writes each shard once it has all of its images.

    Batches may begin in one shard and end in another. `add` returns at once unless `QUEUED_BATCHES` wait to be encoded
    or `QUEUED_SHARDS` to be written: the bounds keep memory flat when a disk is slower than the generator.
    """

    def __init__(self, image_format: ImageFormat, describe: Describe) -> None:
        self.image_format, self.describe = image_format, describe
        self.encoders = ThreadPoolExecutor(ENCODERS, thread_name_prefix="encode")
        self.writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="write")
        self.batches, self.queue = threading.Semaphore(QUEUED_BATCHES), threading.Semaphore(QUEUED_SHARDS)
        self.written: list[Future[int]] = []
        self.waiting: dict[int, Shard] = {}  # by the place of an image that is to be drawn
        self.bytes = 0

    def items(self, shards: Iterable[Shard]) -> Iterator[Item]:
        """The images of some shards that have to be drawn; each shard is asked for as the first of its own is."""
        for shard in shards:
            self.waiting |= {item.index: shard for item in shard.todo}
            if not shard.todo:
                self._finish(shard)
            yield from shard.todo

    def add(
        self, items: Sequence[Item], pixels_BHWC: NDArray[np.uint8], scores_B: NDArray[np.float64] | None = None
    ) -> None:
        """Queue a batch of the images that `items` gave, with the scores of a judge if there is one."""
        self.check()
        self.batches.acquire()
        batch = self.encoders.submit(self._encode, items, pixels_BHWC, scores_B)
        for place, item in enumerate(items):
            shard = self.waiting.pop(item.index)
            shard.drawn.append((batch, place))
            if len(shard.drawn) == len(shard.todo):
                self._finish(shard)

    def check(self) -> None:
        """Count finished shards and raise what went wrong in a thread."""
        done = [shard for shard in self.written if shard.done()]
        self.bytes += sum(shard.result() for shard in done)
        self.written = [shard for shard in self.written if shard not in done]

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.encoders.shutdown()
        self.writers.shutdown()  # what is drawn to the end is written, also by a run that was stopped
        if kind is None:
            self.check()

    def _encode(
        self, items: Sequence[Item], pixels_BHWC: NDArray[np.uint8], scores_B: NDArray[np.float64] | None
    ) -> list[Sample]:
        scores = [{}] * len(items) if scores_B is None else [{"score": score} for score in scores_B.tolist()]
        try:
            return [
                Sample(key_of(item), encode_image(pixels, self.image_format), item.label, self.describe(item) | score)
                for item, pixels, score in zip(items, pixels_BHWC, scores, strict=True)
            ]
        finally:
            self.batches.release()

    def _finish(self, shard: Shard) -> None:
        self.check()
        self.queue.acquire()
        self.written.append(self.writers.submit(self._write, shard))

    def _write(self, shard: Shard) -> int:
        try:
            size = write_shard(shard.path, shard.samples(), self.image_format, shard.expected)
        except OSError as error:
            raise unwritable(error, shard.path, "free space or mend the folder, run again") from error
        else:
            shard.done()
            return size
        finally:
            self.queue.release()


def key_of(item: Item) -> str:
    """The name of an image within its shard: its place in the plan."""
    return f"{item.index:09d}"
