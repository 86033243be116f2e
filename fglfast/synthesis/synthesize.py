"""Engine and payloads to shards, one after the other."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fglfast.base.console import Progress, note
from fglfast.base.wording import size
from fglfast.base.writable import existing, usable_folder
from fglfast.engine.build import Engine
from fglfast.generator.fingerprints import model_fingerprint
from fglfast.generator.parts import name_of
from fglfast.payload.merge import Merged
from fglfast.shards.locks import Claim, locked
from fglfast.shards.tar import link_shard, shard_name
from fglfast.synthesis.accounts import remarks
from fglfast.synthesis.beside_others import accounts_of
from fglfast.synthesis.conditioning import Conditioning, check_fit
from fglfast.synthesis.draw import Drawer
from fglfast.synthesis.drawn import Drawn, engine_of
from fglfast.synthesis.folder import begin, enter, finish, refuse_another
from fglfast.synthesis.judge import Judge, check_judge, scores_of
from fglfast.synthesis.older import Older, change
from fglfast.synthesis.plan import Item, Plan
from fglfast.synthesis.settings import SynthesisSettings, plan_of
from fglfast.synthesis.verify import verify
from fglfast.synthesis.writer import Describe, Shard, ShardWriter

CLAIMED = 8  # images at least that a rank claims at once: each claim costs a lock file
PATIENCE = 0.2  # seconds between two looks at what other ranks are drawing


@dataclass(frozen=True)
class SynthesisResult:
    """What a run of `synthesize` did.

    Attributes:
        images: images drawn by this rank in this run.
        found: images that were there already and stay.
        seconds: wall time of this run, the engine being loaded.
        network_seconds: of those, spent inside UNet and VAE.
        bytes: bytes of the shards written by this run.
        shards: shards of the plan.
        missing: of those, how many are not in the folder: none, unless another rank failed after this one ended.
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


def check_work(
    merged: Merged, settings: SynthesisSettings, out: Path, model: Path, image_size: int, update: bool = False
) -> None:
    """Refuse, before an engine is built or a dry run says how long it would take, what `synthesize` would refuse.

    Raises:
        UsageError: `out` cannot be used, or belongs to another plan.
        BadInputError: the payloads do not fit the model.
    """
    usable_folder(out)
    check_fit(merged, model)
    if out.is_dir() and any(out.iterdir()):
        weights, settings = model_fingerprint(model), settings.drawn_with(model)
        plan = plan_of(weights, image_size, merged, settings)
        refuse_another(out, Drawn.to_be(plan, weights, image_size, model.name, merged, settings), update)


def plan_synthesis(engine: Engine, merged: Merged, settings: SynthesisSettings) -> Plan:
    """The plan of a data set: which images an engine of these weights makes of these payloads."""
    return plan_of(engine.manifest.key.weights, engine.build.image_size, merged, settings.drawn_with(engine.model))


def synthesize(
    engine: Engine,
    merged: Merged,
    settings: SynthesisSettings,
    out: Path | str,
    rank: int = 0,
    world_size: int = 1,
    update: bool = False,
    judge: Judge | None = None,
) -> SynthesisResult:
    """Make every shard of the plan that is not in `out` yet, beside the other ranks, until all are there.

    A kill at any moment costs the shards that are open: run it again, and the finished tars are those of an
    uninterrupted run, byte for byte on the same engine. What a killed rank had begun the others draw. An update takes
    the images that are there over into shards of the new plan, draws the others, and then swaps all at once.

    Args:
        engine: draws.
        merged: the clients' rows.
        settings: what else decides the images.
        out: folder of the data set.
        rank: which process this is.
        world_size: of how many.
        update: whether a data set of other payloads, or of other numbers, may become this one.
        judge: gives each image its score, if the settings name its fingerprint.

    Raises:
        UsageError: `out` belongs to another plan, another run is at work in it, or the settings name another judge.
        BadInputError: the payloads do not fit the engine.
        FglError: the disk refused, or an image came out blank however often it was drawn.
    """
    out, key, settings = Path(out), engine.manifest.key, settings.drawn_with(engine.model)
    plan = plan_of(key.weights, key.build.image_size, merged, settings)
    to_be = Drawn.to_be(plan, key.weights, key.build.image_size, name_of(engine.model), merged, settings)
    check_judge(settings.judge, judge)
    to_be = accounted(to_be, merged, engine.model)
    if not rank:
        for line in remarks(to_be.accounts, to_be.class_names):
            note(line)
    drawer = Drawer(engine, plan, Conditioning(merged, engine), settings.sampling)
    enter(out)
    if (there := engine_of(min(out.glob("*.tar"), default=out))) not in (None, engine.key):
        note(f"engine {there} drew the images that are there, {engine.key} draws the others: last bits may differ")
    with locked(out, rank, world_size):
        place = (rank, world_size)
        return make(to_be, plan, describer(plan, engine.key), drawer, out, place, update, judge=judge)


def accounted(to_be: Drawn, merged: Merged, model: Path | None, known: Drawn | None = None) -> Drawn:
    """A data set's description with the accounts of its clients.

    The generator in the folder `model` says what odd rows are nearest to; without one, a `known` data set may.
    """
    odd = [odd for account in known.accounts for odd in account.odd] if known else []
    accounts = accounts_of(to_be.rows, merged, model, {row.row: row.nearest for row in odd})
    return to_be.model_copy(update={"accounts": accounts})


def make(
    to_be: Drawn,
    plan: Plan,
    describe: Describe,
    drawer: Drawer | None,
    out: Path,
    place: tuple[int, int] = (0, 1),
    update: bool = False,
    older: Older | None = None,
    before_swap: Callable[[Path], None] = lambda _: None,
    judge: Judge | None = None,
) -> SynthesisResult:
    """As `synthesize`, of a plan that is made, in a folder that is locked; `place` is rank and number of ranks.

    There may be no drawer if nothing has to be drawn. For an update, `older` are the images that are there, if they are
    known to be sound; else they are checked. `before_swap` is called with its folder once the shards are there.
    """
    folder, started = begin(out, to_be, update), time.perf_counter()
    older = (older or sound_images(out)) if folder != out else None
    left = _missing(plan, folder)
    there = plan.images - sum(map(plan.size, left))
    if older:
        note(f"{out}: {change(Drawn.of(out), to_be, older.sound)}")
        there += sum(older.holds(item) for number in left for item in plan.shard(number))
    elif there:
        note(f"resuming: {there} of {plan.images} images are there")
    note_room(*room(sum(map(plan.size, left)), to_be.image_size, out), out)
    drawn = written = 0
    batch = drawer.batch if drawer else 0
    with Progress("synthesize", plan.images, start=plan.images - sum(map(plan.size, left))) as progress:
        while left:
            claims: list[Claim] = []
            try:
                with ShardWriter(to_be.image_format, describe) as writer:
                    shards = _shards(plan, folder, older, _claimed(out, folder, plan, left, place, claims))
                    for items, pixels_BSS3 in _drawing(drawer, writer.items(shards)):
                        writer.add(items, pixels_BSS3, scores_of(judge, items, pixels_BSS3, batch))
                        drawn += len(items)
                        progress.advance(len(items))
            finally:
                for claim in claims:
                    claim.give_up()
            written += writer.bytes
            left = _missing(plan, folder)
            progress.advance(plan.images - sum(map(plan.size, left)) - progress.done)
            if left and not claims:  # others are at work on all that is left, or are dead
                time.sleep(PATIENCE)
    if folder != out and folder.is_dir():
        before_swap(folder)
    finish(out, folder)
    watch, redrawn = (drawer.watch.seconds, drawer.redrawn) if drawer else (0.0, 0)
    missing = len(plan.remaining(out))
    return SynthesisResult(drawn, there, time.perf_counter() - started, watch, written, plan.shards, missing, redrawn)


def sound_images(out: Path) -> Older:
    """The images of a data set, those in damaged shards left out."""
    sound = [shard.number for shard in verify(out) if not shard.problem]
    return Older(out, Drawn.of(out).layout, sound)


def _missing(plan: Plan, folder: Path) -> list[int]:
    """Shards that are still to be made; none if another rank let the folder take its place."""
    left = plan.remaining(folder)
    return left if folder.is_dir() else []


def _claimed(
    out: Path, folder: Path, plan: Plan, left: list[int], place: tuple[int, int], claims: list[Claim]
) -> Iterator[Claim]:
    """Claim what nobody else is drawing, a few shards whenever some are asked for: first every so manieth.

    Claims are added to `claims`, for whoever has to give them up.
    """
    rank, world_size = place
    step = -(-CLAIMED // plan.shard_size)
    groups = sorted({number // step for number in left}, key=lambda group: ((group - rank) % world_size > 0, group))
    for group in groups:
        claim = Claim.attempt(out, range(group * step, min((group + 1) * step, plan.shards)))
        if claim:
            claim.keep([n for n in claim.numbers if not (folder / shard_name(n)).exists() and folder.is_dir()])
            if claim.numbers:
                claims.append(claim)
                yield claim


def _shards(plan: Plan, folder: Path, older: Older | None, claims: Iterator[Claim]) -> Iterator[Shard]:
    """The shards of some claims, with what has to be drawn of each; one that is there as it is needs nothing."""
    for claim in claims:
        for number in claim.numbers:
            items, path, done = plan.shard(number), folder / shard_name(number), partial(claim.done, number)
            if older and (equal := older.equal_shard(items, number)) and link_shard(equal, path):
                done()
            elif older:
                todo = [item for item in items if not older.holds(item)]
                yield Shard(path, items, todo, kept=older.sample, done=done)
            else:
                yield Shard(path, items, items, done=done)


def _drawing(drawer: Drawer | None, items: Iterator[Item]) -> Iterator[tuple[list[Item], Any]]:
    """Batches of images; whoever has no engine has nothing to draw, and the shards are written all the same."""
    if drawer:
        return drawer.batches(items)
    assert not list(items)
    return iter(())


def room(images: int, side: int, out: Path) -> tuple[int, int]:
    """Bytes that images need at most, those of raw pixels in tars, and bytes that are free where they go."""
    return images * (3 * side * side + 3 * 512), shutil.disk_usage(existing(out)).free


def note_room(needed: int, free: int, out: Path) -> None:
    """Say so where the disk may become full before a data set is done."""
    if needed > free:
        note(f"{out}: the disk may become full: {size(needed)} are needed at most, {size(free)} are free")


def describer(plan: Plan, engine: str) -> Describe:
    """What `KEY.json` says of an image."""

    def describe(item: Item) -> dict[str, object]:
        return {
            "class": item.label,
            "row": item.digest,
            "ordinal": item.ordinal,
            "seed": plan.seed,
            "engine": engine,
            **({"redraw": item.draw} if item.draw else {}),
        }

    return describe
