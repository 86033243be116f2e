"""Items of a plan to pixels; what came out blank is drawn anew."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fglfast.base.errors import FglError
from fglfast.engine.build import Engine
from fglfast.engine.networks import Networks, sent
from fglfast.engine.sketch import to_pixels
from fglfast.sampler.sample import sample
from fglfast.sampler.schedule import Sampling, Schedule
from fglfast.synthesis.conditioning import Conditioning
from fglfast.synthesis.plan import REDRAWS, Item, Plan
from fglfast.synthesis.starting_noise import starting_noises

# Standard deviation, in levels of 0 to 255, of the liveliest channel of an image. Clothes on a flat ground have 20 and
# more (the bundled photographs 21, 5,000 images that `mini` drew 19.7), an untrained network's images 40; a constant
# image, rounded up here and down there, has less than 1, however bright or dark.
FLAT = 1
LATTICE = 64  # points a side that are looked at: 17 microseconds an image of 32x32, 90 of any beyond 64x64


class Stopwatch:
    """Networks whose time is counted: on a GPU that between two marks in what it has been given to do."""

    def __init__(self, networks: Networks) -> None:
        self.networks, self.seconds = networks, 0.0
        self._marks: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def denoise(self, latents_BCHW: Tensor, timestep_B: Tensor, text_BLE: Tensor) -> Tensor:
        """`Networks.denoise`, timed."""
        with self._timed():
            return self.networks.denoise(latents_BCHW, timestep_B, text_BLE)

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """`Networks.decode`, timed."""
        with self._timed():
            return self.networks.decode(latents_BCHW)

    def count(self) -> None:
        """Add up what a GPU has done by now."""
        while self._marks and self._marks[0][1].query():
            start, end = self._marks.popleft()
            self.seconds += start.elapsed_time(end) / 1000

    @contextmanager
    def _timed(self) -> Iterator[None]:
        if self.networks.device == "cpu":
            started = time.perf_counter()
            yield
            self.seconds += time.perf_counter() - started
            return
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        yield
        end.record()
        self._marks.append((start, end))


@dataclass(frozen=True)
class Flight:
    """A batch on its way.

    Attributes:
        items: its images.
        pixels_BSS3: of the host; whole when `landed`.
        landed: None on a CPU, where it is at once.
    """

    items: list[Item]
    pixels_BSS3: Tensor
    landed: torch.cuda.Event | None

    def fetch(self) -> NDArray[np.uint8]:
        """Pixels [B,S,S,3]; waits for them."""
        if self.landed:
            self.landed.synchronize()
        return self.pixels_BSS3.numpy()


class Drawer:
    """Draws items of a plan by one engine, where that computes: noise and text go there, bytes come back.

    An image that is blank (not a number somewhere, black, or constant) is drawn anew from its identity's next noise, in
    a batch of the blank ones of its own batch. In which batch an image is drawn does not matter: passes are padded to
    the engine's rows, and a row's numbers do not depend on the others.

    Attributes:
        batch: images drawn together: a guided step then fills two passes, an unguided one a single pass.
        ahead: batches that are launched before one is waited for.
        redrawn: draws that came out blank so far.
        watch: what the networks took.
    """

    def __init__(self, engine: Engine, plan: Plan, conditioning: Conditioning, sampling: Sampling) -> None:
        self.plan, self.conditioning, self.latent = plan, conditioning, engine.shapes.latent
        self.watch, self.schedule = Stopwatch(engine.networks), Schedule.of_model(engine.model, sampling)
        self.device, self.batch, self.redrawn = engine.networks.device, rows_together(engine), 0
        self.ahead = 0 if self.device == "cpu" else 1

    def batches(self, items: Iterable[Item]) -> Iterator[tuple[list[Item], NDArray[np.uint8]]]:
        """Draw images, `batch` of them at a time.

        On a GPU the next batch is being drawn while one is fetched, and while the caller encodes it.

        Yields:
            Items with the draw that each image is of, in the order given, and uint8 pixels [B,S,S,3].

        Raises:
            FglError: an item's image is blank at every draw; its class and row are named.
        """
        waiting = iter(items)
        flying: deque[Flight] = deque()
        while some := list(islice(waiting, self.batch)):
            flying.append(self.launch(some))
            if len(flying) > self.ahead:
                yield self._mended(flying.popleft())
        while flying:
            yield self._mended(flying.popleft())

    def launch(self, items: Sequence[Item]) -> Flight:
        """Have a batch drawn, blank or not; on a GPU without waiting for it."""
        rows = [item.row for item in items]
        text_BLE, negative_BLE = self.conditioning.rows(rows), self.conditioning.negatives(rows)

        def noise(step: int) -> Tensor:
            return sent(torch.from_numpy(starting_noises(self.plan.seed, items, self.latent, step)), self.device)

        latents_BCHW = sample(self.watch.denoise, noise(0), text_BLE, negative_BLE, self.schedule, noise)
        pixels_BSS3 = to_pixels(self.watch.decode(latents_BCHW))
        if self.device == "cpu":
            return Flight(list(items), pixels_BSS3, None)
        pixels_BSS3, landed = pixels_BSS3.to("cpu", non_blocking=True), torch.cuda.Event()  # page-locked by itself
        landed.record()
        return Flight(list(items), pixels_BSS3, landed)

    def _mended(self, flight: Flight) -> tuple[list[Item], NDArray[np.uint8]]:
        """A batch's pixels, what was blank drawn again."""
        drawn, pixels_BSS3 = flight.items, flight.fetch()
        self.watch.count()
        blank_B = is_flat(pixels_BSS3)
        while len(places := np.flatnonzero(blank_B)):
            again = [replace(drawn[place], draw=drawn[place].draw + 1) for place in places]
            if again[0].draw > REDRAWS:
                raise self._hopeless(again[0])
            self.redrawn += len(again)
            pixels_BSS3[places] = self.launch(again).fetch()
            blank_B[places] = is_flat(pixels_BSS3[places])
            for place, item in zip(places, again, strict=True):
                drawn[place] = item
        return drawn, pixels_BSS3

    def _hopeless(self, item: Item) -> FglError:
        merged = self.conditioning.merged
        name, client = self.plan.class_names[item.label], merged.clients[merged.row_client[item.row]]
        return FglError(
            f"class {name!r}, prompt row {item.digest[:16]} (client {client!r}): an image came out black, constant "
            f"or not a number in {REDRAWS + 1} draws",
            "leave that client's payload out, or build the engine with another backend or precision",
        )


def rows_together(engine: Engine) -> int:
    """Images that an engine draws together."""
    return engine.build.unet_batch


def is_flat(pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which images [B] deviate by less than `FLAT` in every channel, in whole numbers: no machine rounds otherwise."""
    step = -(-max(pixels_BHWC.shape[1:3]) // LATTICE)
    points_BHWC = pixels_BHWC[:, ::step, ::step].astype(np.int64)
    count = points_BHWC.shape[1] * points_BHWC.shape[2]
    sum_BC, squares_BC = points_BHWC.sum((1, 2)), np.einsum("bhwc,bhwc->bc", points_BHWC, points_BHWC)
    variance_BC = count * squares_BC - sum_BC**2  # times the square of the count
    flat_B: NDArray[np.bool_] = (variance_BC < (FLAT * count) ** 2).all(1)
    return flat_B
