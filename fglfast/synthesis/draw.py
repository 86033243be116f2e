"""Items of a plan to pixels; what came out blank is drawn anew. Knows nothing of files."""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fglfast.base.errors import FglError
from fglfast.engine.build import Engine
from fglfast.engine.networks import Networks
from fglfast.sampler.sample import sample
from fglfast.sampler.schedule import Sampling, Schedule
from fglfast.synthesis.conditioning import Conditioning
from fglfast.synthesis.noise import starting_noises
from fglfast.synthesis.plan import Item, Plan

REDRAWS = 3
# Standard deviation, in levels of 0 to 255, of the liveliest channel of an image. Clothes on a flat ground have 20 and
# more (the bundled photographs 21, 5,000 images that `mini` drew 19.7), an untrained network's images 40; a constant
# image, rounded up here and down there, has less than 1, however bright or dark.
FLAT = 1
LATTICE = 64  # points a side that are looked at: 17 microseconds an image of 32x32, 90 of any beyond 64x64


class Stopwatch:
    """Networks whose time is counted."""

    def __init__(self, networks: Networks) -> None:
        self.networks, self.seconds = networks, 0.0

    def denoise(self, latents_BCHW: Tensor, timestep_B: Tensor, text_BLE: Tensor) -> Tensor:
        """`Networks.denoise`, timed."""
        started = time.perf_counter()
        prediction_BCHW = self.networks.denoise(latents_BCHW, timestep_B, text_BLE)
        self.seconds += time.perf_counter() - started
        return prediction_BCHW

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """`Networks.decode`, timed."""
        started = time.perf_counter()
        images_BCHW = self.networks.decode(latents_BCHW)
        self.seconds += time.perf_counter() - started
        return images_BCHW


class Drawer:
    """Draws items of a plan by one engine.

    An image that is blank (not a number somewhere, black, or constant) is drawn anew from its identity's next noise, in
    a batch of the blank ones of its own batch: which images those are depends on nothing but plan and engine, so
    resumes and ranks draw the same.

    Attributes:
        batch: images drawn together: a guided step then fills two passes, an unguided one a single pass.
        redrawn: draws that came out blank so far.
        watch: what the networks took.
    """

    def __init__(self, engine: Engine, plan: Plan, conditioning: Conditioning, sampling: Sampling) -> None:
        self.plan, self.conditioning, self.latent = plan, conditioning, engine.shapes.latent
        self.watch, self.schedule = Stopwatch(engine.networks), Schedule.of_model(engine.model, sampling)
        self.batch, self.redrawn = rows_together(engine), 0

    def draw(self, items: Sequence[Item]) -> tuple[list[Item], NDArray[np.uint8]]:
        """Draw the images of some items.

        Returns:
            The items with the draw that each image is of, and uint8 pixels [B,S,S,3].

        Raises:
            FglError: an item's image is blank at every draw; its class and row are named.
        """
        drawn, (pixels_BSS3, blank_B) = list(items), self._once(items)
        while len(places := np.flatnonzero(blank_B)):
            again = [replace(drawn[place], draw=drawn[place].draw + 1) for place in places]
            if again[0].draw > REDRAWS:
                raise self._hopeless(again[0])
            self.redrawn += len(again)
            pixels_BSS3[places], blank_B[places] = self._once(again)
            for place, item in zip(places, again, strict=True):
                drawn[place] = item
        return drawn, pixels_BSS3

    def _once(self, items: Sequence[Item]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Pixels [B,S,S,3], and which images [B] are blank."""
        noise_BCHW = torch.from_numpy(starting_noises(self.plan.seed, items, self.latent))
        rows = [item.row for item in items]
        text_BLE, negative_BLE = self.conditioning.rows(rows), self.conditioning.negatives(rows)
        latents_BCHW = sample(self.watch.denoise, noise_BCHW, text_BLE, negative_BLE, self.schedule)
        images_BCHW = self.watch.decode(latents_BCHW)
        finite_B = torch.isfinite(images_BCHW).flatten(1).all(1).numpy()
        pixels_BSS3 = to_pixels(images_BCHW)
        return pixels_BSS3, ~finite_B | is_flat(pixels_BSS3)

    def _hopeless(self, item: Item) -> FglError:
        merged = self.conditioning.merged
        name, client = self.plan.class_names[item.label], merged.clients[merged.row_client[item.row]]
        return FglError(
            f"class {name!r}, prompt row {item.row} (client {client!r}): an image came out black, constant or not a "
            f"number in {REDRAWS + 1} draws",
            "leave that client's payload out, or build the engine with another backend or precision",
        )


def rows_together(engine: Engine) -> int:
    """Images that an engine draws together."""
    return engine.manifest.key.build.unet_batch


def to_pixels(images_BCHW: Tensor) -> NDArray[np.uint8]:
    """Decoded images [B,3,S,S] in [-1,1] as bytes [B,S,S,3]."""
    pixels_BCHW = images_BCHW.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    return pixels_BCHW.permute(0, 2, 3, 1).contiguous().numpy()


def is_flat(pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which images [B] deviate by less than `FLAT` in every channel, in whole numbers: no machine rounds otherwise."""
    step = -(-max(pixels_BHWC.shape[1:3]) // LATTICE)
    points_BHWC = pixels_BHWC[:, ::step, ::step].astype(np.int64)
    count = points_BHWC.shape[1] * points_BHWC.shape[2]
    sum_BC, squares_BC = points_BHWC.sum((1, 2)), np.einsum("bhwc,bhwc->bc", points_BHWC, points_BHWC)
    variance_BC = count * squares_BC - sum_BC**2  # times the square of the count
    flat_B: NDArray[np.bool_] = (variance_BC < (FLAT * count) ** 2).all(1)
    return flat_B
