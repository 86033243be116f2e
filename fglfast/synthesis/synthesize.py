"""Engine and payloads to shards: noise, denoise, decode, hand over. Knows nothing of files' insides."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from fglfast.config import Settings
from fglfast.console import Progress, note
from fglfast.engine.build import Engine, seconds_per_pass
from fglfast.engine.networks import Networks
from fglfast.errors import FglError
from fglfast.merge import Merged
from fglfast.sampler.sample import sample
from fglfast.sampler.schedule import Sampling, Schedule
from fglfast.synthesis.conditioning import Conditioning
from fglfast.synthesis.folder import claim, engine_of, locked
from fglfast.synthesis.plan import Item, Plan, make_plan, starting_noises
from fglfast.synthesis.shards import ImageFormat, shard_name
from fglfast.synthesis.writer import ShardWriter


class SynthesisSettings(Settings):
    """What decides the images, besides engine and payloads."""

    images_per_class: int = Field(default=500, ge=1, le=10_000_000)
    seed: int = Field(default=0, ge=0, lt=1 << 64)
    shard_size: int = Field(default=512, ge=1, le=100_000)
    image_format: ImageFormat = "png"
    sampling: Sampling = Sampling()


@dataclass(frozen=True)
class SynthesisResult:
    """What a run of `synthesize` did.

    Attributes:
        images: images made by this run; those found are not counted.
        found: images that were there already.
        seconds: wall time of this run, the engine being loaded.
        network_seconds: of those, spent inside UNet and VAE.
        bytes: bytes of the shards written by this run.
        shards: shards of the plan.
        missing: of those, how many are not in the folder yet: other ranks' share.
    """

    images: int
    found: int
    seconds: float
    network_seconds: float
    bytes: int
    shards: int
    missing: int

    @property
    def network_share(self) -> float:
        """Share of the wall time spent inside UNet and VAE."""
        return self.network_seconds / self.seconds if self.seconds else 0.0


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


def plan_synthesis(engine: Engine, merged: Merged, settings: SynthesisSettings) -> Plan:
    """The plan of a data set: which images an engine of these weights makes of these payloads."""
    facts: dict[str, object] = {
        "weights": engine.manifest.key.weights,
        "image_size": engine.manifest.key.build.image_size,
        "image_format": settings.image_format,
        "sampling": settings.sampling.model_dump(mode="json", exclude_none=True),
    }
    return make_plan(merged, settings.images_per_class, settings.seed, settings.shard_size, facts)


def synthesize(
    engine: Engine, merged: Merged, settings: SynthesisSettings, out: Path, rank: int = 0, world_size: int = 1
) -> SynthesisResult:
    """Make every shard of the plan that is not in `out` yet, or a rank's share of them.

    A kill at any moment costs the open shard only: run it again, and the finished tars are those of an
    uninterrupted run, byte for byte on the same engine. Batches never cross a shard.

    Raises:
        UsageError: `out` belongs to another plan, or another run is at work in it.
        BadInputError: the payloads do not fit the engine.
        FglError: the disk refused, or the engine made something that is not a number.
    """
    plan = plan_synthesis(engine, merged, settings)
    conditioning = Conditioning(merged, engine)
    claim(out, _facts(plan, engine, merged, settings))
    if (there := engine_of(out)) not in (None, engine.key):
        note(f"engine {there} drew the images that are there, {engine.key} draws the others: last bits may differ")
    if rank >= plan.shards:
        note(f"nothing to do: there are {plan.shards} shards only; a smaller --shard-size makes more")
    with locked(out, rank, world_size):
        numbers = plan.remaining(out, rank, world_size)
        mine = sum(map(plan.size, range(rank, plan.shards, world_size)))
        todo = sum(map(plan.size, numbers))
        if todo < mine:
            note(f"resuming: {mine - todo} of {mine} images are there")
        watch, started = Stopwatch(engine.networks), time.perf_counter()
        schedule, batch = Schedule.of_model(engine.model, settings.sampling), _rows(engine)
        with (
            ShardWriter(settings.image_format, _describer(plan, merged, engine)) as writer,
            Progress("synthesize", mine, start=mine - todo) as progress,
        ):
            for number in numbers:
                items = plan.shard(number)
                for start in range(0, len(items), batch):
                    part = items[start : start + batch]
                    writer.add(part, _draw(part, plan, conditioning, watch, schedule, engine))
                    progress.advance(len(part))
                writer.finish_shard(out / shard_name(number))
        seconds = time.perf_counter() - started
    missing = len(plan.remaining(out))
    return SynthesisResult(todo, mine - todo, seconds, watch.seconds, writer.bytes, plan.shards, missing)


def estimate(
    engine: Engine, merged: Merged, settings: SynthesisSettings, out: Path, world_size: int = 1
) -> dict[str, Any]:
    """What `synthesize` would do: images, shards, bytes (of raw pixels, an upper bound for PNG) and seconds."""
    plan = plan_synthesis(engine, merged, settings)
    left = sum(map(plan.size, plan.remaining(out)))
    most = max(sum(map(plan.size, plan.remaining(out, rank, world_size))) for rank in range(world_size))
    batches = -(-most // _rows(engine))
    side, passes = engine.manifest.key.build.image_size, Schedule.of_model(engine.model, settings.sampling).passes()
    return {
        "plan": plan.digest(),
        "classes": len(plan.present),
        "images": plan.images,
        "images_left": left,
        "shards": plan.shards,
        "bytes_at_most": left * (3 * side * side + 3 * 512),
        "seconds": round(batches * passes * seconds_per_pass(engine), 1),
    }


def _draw(
    items: Sequence[Item],
    plan: Plan,
    conditioning: Conditioning,
    watch: Stopwatch,
    schedule: Schedule,
    engine: Engine,
) -> NDArray[np.uint8]:
    """Draw the images of some items: uint8 [B,S,S,3]."""
    noise_BCHW = torch.from_numpy(starting_noises(plan.seed, items, engine.shapes.latent))
    rows = [item.row for item in items]
    text_BLE, negative_BLE = conditioning.rows(rows), conditioning.negatives(rows)
    latents_BCHW = sample(watch.denoise, noise_BCHW, text_BLE, negative_BLE, schedule)
    images_BCHW = watch.decode(latents_BCHW)
    if not bool(torch.isfinite(images_BCHW).all()):
        raise FglError(f"engine {engine.key} made an image that is not a number", "build it with another backend")
    return to_pixels(images_BCHW)


def to_pixels(images_BCHW: Tensor) -> NDArray[np.uint8]:
    """Decoded images [B,3,S,S] in [-1,1] as bytes [B,S,S,3]."""
    pixels_BCHW = images_BCHW.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    return pixels_BCHW.permute(0, 2, 3, 1).contiguous().numpy()


def _rows(engine: Engine) -> int:
    """Images drawn together: a guided step then fills two passes, an unguided one a single pass."""
    return engine.manifest.key.build.unet_batch


def _facts(plan: Plan, engine: Engine, merged: Merged, settings: SynthesisSettings) -> dict[str, Any]:
    """What `dataset.json` says: the same for the same plan, whenever and wherever it is made."""
    return {
        "plan": plan.digest(),
        "class_names": list(plan.class_names),
        "images": plan.images,
        "shards": plan.shards,
        "image_size": engine.manifest.key.build.image_size,
        "model": engine.model.name,
        "weights": engine.manifest.key.weights,
        "clients": list(merged.clients),
        "payloads": list(merged.digests),
        **settings.model_dump(mode="json"),
    }


def _describer(plan: Plan, merged: Merged, engine: Engine):  # type: ignore[no-untyped-def]
    def describe(item: Item) -> dict[str, object]:
        client = int(merged.row_client[item.row])
        return {
            "class": item.label,
            "row": item.row,
            "ordinal": item.ordinal,
            "seed": plan.seed,
            "client": merged.clients[client],
            "payload": merged.digests[client],
            "engine": engine.key,
        }

    return describe
