"""A candidate's data set: drawn, or taken out of a larger one of the same sampling."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from fglfast.engine.build import Engine, seconds_per_pass
from fglfast.lab.tuning.candidates import Candidate
from fglfast.payload.merge import Merged
from fglfast.shards.tar import ImageFormat, shard_name, write_shard
from fglfast.synthesis.accounts import drawn_otherwise
from fglfast.synthesis.drawn import Drawn
from fglfast.synthesis.folder import begin
from fglfast.synthesis.older import Older
from fglfast.synthesis.plan import Plan
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import plan_synthesis, synthesize

FORMAT: ImageFormat = "png"


@dataclass(frozen=True)
class DataSet:
    """A data set that is there.

    Attributes:
        candidate: whose it is.
        plan: its images.
        folder: where it lies.
        seconds: what drawing it takes.
        drawn_with: images per class of the set it was taken from; None if it was drawn.
    """

    candidate: Candidate
    plan: Plan
    folder: Path
    seconds: float
    drawn_with: int | None = None


class DataSets:
    """Draws one data set after the other into a folder of its own, and keeps the last one that it drew.

    The folder is removed at first: seconds of a set that was begun before could not be told.
    """

    def __init__(self, engine: Engine, merged: Merged, seed: int, folder: Path) -> None:
        self.engine, self.merged, self.seed, self.folder = engine, merged, seed, folder
        self.kept: DataSet | None = None
        shutil.rmtree(folder, ignore_errors=True)

    def make(self, candidate: Candidate) -> DataSet:
        """The data set that `fglfast synthesize` makes of a candidate; it lasts until the next call."""
        settings = SynthesisSettings(
            images_per_class=candidate.images_per_class,
            seed=self.seed,
            image_format=FORMAT,
            sampling=candidate.sampling,
        )
        plan, kept, taken = plan_synthesis(self.engine, self.merged, settings), self.kept, self.folder / "taken"
        shutil.rmtree(taken, ignore_errors=True)
        if kept and kept.candidate.sampling == candidate.sampling and take(kept.plan, kept.folder, plan, taken):
            seconds = kept.seconds * plan.images / kept.plan.images
            return DataSet(candidate, plan, taken, seconds, kept.candidate.images_per_class)
        if not kept:
            seconds_per_pass(self.engine, rounds=1)  # an engine's first passes are slower, whoever comes first
        drawn = self.folder / "drawn"
        shutil.rmtree(drawn, ignore_errors=True)
        seconds = synthesize(self.engine, self.merged, settings, drawn).seconds
        self.kept = DataSet(candidate, plan, drawn, seconds)
        return self.kept


def take(whole: Plan, source: Path, part: Plan, out: Path) -> bool:
    """Write a plan's data set out of a larger one's images, as drawing it would; whether that holds them all.

    Rows share a class by largest remainder, so more images a class may, rarely, be fewer of a row.
    """
    older = Older(source, whole, range(whole.shards))
    if not all(map(older.holds, part.items())):
        return False
    changes = {"plan": part.digest(), "images": part.images, "shards": part.shards, "rows": part.rows}
    there = Drawn.of(source)
    changes |= {"images_per_class": part.images_per_class, "accounts": drawn_otherwise(there.accounts, part.rows)}
    begin(out, there.model_copy(update=changes))
    for number in range(part.shards):
        write_shard(out / shard_name(number), map(older.sample, part.shard(number)), FORMAT)
    return True
