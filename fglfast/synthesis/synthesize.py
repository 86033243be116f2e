"""Engine and payloads to shards, one after the other. Knows neither how an image is drawn nor files' insides."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fglfast.base.console import Progress, note
from fglfast.base.files import existing, usable_folder
from fglfast.base.wording import size
from fglfast.engine.build import Engine, seconds_per_pass
from fglfast.generator.load import model_fingerprint, read_shapes
from fglfast.payload.merge import Merged
from fglfast.sampler.schedule import Schedule
from fglfast.shards.locks import locked
from fglfast.shards.tar import shard_name
from fglfast.synthesis.conditioning import Conditioning, check_fit
from fglfast.synthesis.draw import Drawer, rows_together
from fglfast.synthesis.drawn import Drawn, engine_of
from fglfast.synthesis.folder import begin, refuse_another
from fglfast.synthesis.plan import Item, Plan
from fglfast.synthesis.settings import SynthesisSettings, plan_of
from fglfast.synthesis.writer import Describe, ShardWriter


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
        redrawn: draws of this run that came out blank and were made again.
    """

    images: int
    found: int
    seconds: float
    network_seconds: float
    bytes: int
    shards: int
    missing: int
    redrawn: int

    @property
    def network_share(self) -> float:
        """Share of the wall time spent inside UNet and VAE."""
        return self.network_seconds / self.seconds if self.seconds else 0.0


def check_work(merged: Merged, settings: SynthesisSettings, out: Path, model: Path, image_size: int) -> None:
    """Refuse, before an engine is built or a dry run says how long it would take, what `synthesize` would refuse.

    Args:
        merged: the clients' rows.
        settings: as for `synthesize`.
        out: likewise.
        model: folder of the model that would draw.
        image_size: side in pixels.

    Raises:
        UsageError: `out` cannot be used, or belongs to another plan.
        BadInputError: the payloads do not fit the model.
    """
    usable_folder(out)
    check_fit(merged, model, read_shapes(model, image_size))
    if out.is_dir() and any(out.iterdir()):
        weights = model_fingerprint(model)
        plan = plan_of(weights, image_size, merged, settings)
        refuse_another(out, Drawn.to_be(plan, weights, image_size, model.name, merged, settings))


def plan_synthesis(engine: Engine, merged: Merged, settings: SynthesisSettings) -> Plan:
    """The plan of a data set: which images an engine of these weights makes of these payloads."""
    return plan_of(engine.manifest.key.weights, engine.manifest.key.build.image_size, merged, settings)


def synthesize(
    engine: Engine, merged: Merged, settings: SynthesisSettings, out: Path, rank: int = 0, world_size: int = 1
) -> SynthesisResult:
    """Make every shard of the plan that is not in `out` yet, or a rank's share of them.

    A kill at any moment costs the open shard only: run it again, and the finished tars are those of an
    uninterrupted run, byte for byte on the same engine. Batches never cross a shard.

    Raises:
        UsageError: `out` belongs to another plan, or another run is at work in it.
        BadInputError: the payloads do not fit the engine.
        FglError: the disk refused, or an image came out blank however often it was drawn.
    """
    plan = plan_synthesis(engine, merged, settings)
    drawer = Drawer(engine, plan, Conditioning(merged, engine), settings.sampling)
    key = engine.manifest.key
    begin(out, Drawn.to_be(plan, key.weights, key.build.image_size, engine.model.name, merged, settings))
    if (there := engine_of(min(out.glob("*.tar"), default=out))) not in (None, engine.key):
        note(f"engine {there} drew the images that are there, {engine.key} draws the others: last bits may differ")
    if rank >= plan.shards:
        note(f"nothing to do: there are {plan.shards} shards only; a smaller --shard-size makes more")
    with locked(out, rank, world_size):
        numbers = plan.remaining(out, rank, world_size)
        mine = sum(map(plan.size, range(rank, plan.shards, world_size)))
        todo = sum(map(plan.size, numbers))
        note_room(*room(todo, key.build.image_size, out), out)
        if todo < mine:
            note(f"resuming: {mine - todo} of {mine} images are there")
        started = time.perf_counter()
        with (
            ShardWriter(settings.image_format, describer(plan, merged, engine)) as writer,
            Progress("synthesize", mine, start=mine - todo) as progress,
        ):
            for number in numbers:
                draw_shard(drawer, number, writer, progress)
                writer.finish_shard(out / shard_name(number))
        seconds = time.perf_counter() - started
    missing = len(plan.remaining(out))
    return SynthesisResult(
        todo, mine - todo, seconds, drawer.watch.seconds, writer.bytes, plan.shards, missing, drawer.redrawn
    )


def draw_shard(drawer: Drawer, number: int, writer: ShardWriter, progress: Progress) -> None:
    """Draw the images of one shard and queue them to be encoded."""
    for drawn, pixels_BSS3 in drawer.batches(drawer.plan.shard(number)):
        writer.add(drawn, pixels_BSS3)
        progress.advance(len(drawn))


def estimate(
    engine: Engine, merged: Merged, settings: SynthesisSettings, out: Path, world_size: int = 1
) -> dict[str, Any]:
    """What `synthesize` would do: as `foresee`, with the seconds that the engine takes."""
    plan, side = plan_synthesis(engine, merged, settings), engine.manifest.key.build.image_size
    most = max(sum(map(plan.size, plan.remaining(out, rank, world_size))) for rank in range(world_size))
    batches, passes = -(-most // rows_together(engine)), Schedule.of_model(engine.model, settings.sampling).passes()
    seconds = round(batches * passes * seconds_per_pass(engine), 1)
    return foresee(plan, engine.model, side, settings, out) | {"seconds": seconds}


def foresee(plan: Plan, model: Path, side: int, settings: SynthesisSettings, out: Path) -> dict[str, Any]:
    """What a plan takes by any engine: images, shards, rows of the UNet, bytes (see `room`) beside those that are free.

    Args:
        plan: what is drawn.
        model: folder of the model; its weights need not be there.
        side: of an image, in pixels.
        settings: how it is sampled.
        out: folder of the data set.
    """
    left = sum(map(plan.size, plan.remaining(out)))
    needed, free = room(left, side, out)
    return {
        "plan": plan.digest(),
        "classes": len(plan.present),
        "images": plan.images,
        "images_left": left,
        "shards": plan.shards,
        "unet_rows": left * Schedule.of_model(model, settings.sampling).passes(),
        "bytes_at_most": needed,
        "bytes_free": free,
        "seconds": None,
    }


def room(images: int, side: int, out: Path) -> tuple[int, int]:
    """Bytes that images need at most, those of raw pixels in tars, and bytes that are free where they go."""
    return images * (3 * side * side + 3 * 512), shutil.disk_usage(existing(out)).free


def note_room(needed: int, free: int, out: Path) -> None:
    """Say so where the disk may become full before a data set is done."""
    if needed > free:
        note(f"{out}: the disk may become full: {size(needed)} are needed at most, {size(free)} are free")


def describer(plan: Plan, merged: Merged, engine: Engine) -> Describe:
    """What `KEY.json` says of an image."""

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
            **({"redraw": item.draw} if item.draw else {}),
        }

    return describe
