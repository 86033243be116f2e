"""The stop rule: pilots on the first images foretell what more would bring, and no more are drawn than pay.

First `pilot_images` of each class are drawn, and pilots trained on them, on their halves and quarters. The scaling law
through those says from which number on a thousand more images (or a minute more of drawing) gain too little. Is that
more than twice what is there, so much is drawn first, and one more pilot trained on it; else what is left. The data set
is then the one that `synthesize` makes of that number. What was asked, the pilots and the decision are in
`stopping.json`, so that a run that was killed decides as it would have, and once.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fglfast.base.config import Settings
from fglfast.base.console import note
from fglfast.base.errors import UsageError
from fglfast.base.wording import differences
from fglfast.engine.build import Engine
from fglfast.images.labelled import LabelledImages
from fglfast.payload.merge import Merged
from fglfast.pipeline.pilots import SIDE, Judges, Pool, one_more, run_pilots
from fglfast.pipeline.scaling import THOUSAND, Law, Pilot, Predicted
from fglfast.shards.description import FACTS
from fglfast.synthesis.foresight import seconds_per_image
from fglfast.synthesis.judge import Judge
from fglfast.synthesis.settings import SynthesisSettings, plan_of
from fglfast.synthesis.synthesize import SynthesisResult, plan_synthesis, synthesize

RECORD = "stopping.json"
FEWEST = 20  # images of a class that pilots need: a quarter has five, and without real images one of those judges
POINTS_SHOWN = 25  # of a curve
MINUTE = 60  # seconds


class Until(Settings):
    """The gain below which no more is drawn.

    Attributes:
        points: of accuracy.
        per: for what: a thousand images, or a minute of drawing.
    """

    points: float = Field(gt=0, le=100)
    per: Literal["images", "minute"] = "images"

    @classmethod
    def parse(cls, text: str) -> "Until":
        """Read `0.2`, points for a thousand images, or `0.2/min`, points for a minute.

        Raises:
            UsageError: it is neither.
        """
        number, slash, unit = text.strip().partition("/")
        try:
            points = float(number)
        except ValueError:
            points = float("nan")
        if not 0 < points <= 100 or (slash and unit.strip() != "min"):
            raise UsageError(f"--until-gain {text}: no gain in points", "give for example 0.2, or 0.2/min")
        return cls(points=points, per="minute" if slash else "images")

    @property
    def words(self) -> str:
        """The bound for people."""
        return f"{self.points:g} points {'a minute' if self.per == 'minute' else 'for 1,000 images'}"


class Stopping(Settings):
    """What was asked, measured and decided, `stopping.json`.

    Attributes:
        plan: of the data set with all images that may be drawn.
        most: images a class that it has.
        pilot_images: images a class that the first pilots learn from.
        until: where drawing stops.
        judges: the real images that judge, by name; empty where held-out synthetic ones do.
        judged_by: digest of those real images.
        classes: how many are drawn.
        pilots: those that are trained.
        seconds_per_image: of drawing; None where it is not asked for.
        images_per_class: what is to be drawn by the pilots so far; 0 before them.
        curve: accuracy by images a class, as the law foretells it.
    """

    plan: str
    most: int
    pilot_images: int
    until: Until
    judges: str
    judged_by: str
    classes: Annotated[int, Field(ge=1)]
    pilots: tuple[Pilot, ...] = ()
    seconds_per_image: float | None = None
    images_per_class: int = 0
    curve: tuple[Predicted, ...] = ()

    @property
    def decided(self) -> bool:
        """Whether no more pilots are to come: what is to be drawn is not more than twice what the last one saw."""
        seen = max((pilot.images_per_class for pilot in self.pilots), default=0)
        return bool(seen) and self.images_per_class == self.wanted

    @property
    def wanted(self) -> int:
        """Images a class, by the pilots so far; no fewer than they saw."""
        gain = self.until.points
        if self.seconds_per_image is not None:
            gain *= self.seconds_per_image * THOUSAND / MINUTE  # points for a thousand images
        seen = max(pilot.images_per_class for pilot in self.pilots)
        return min(self.most, max(seen, Law.of(self.pilots).until(gain, self.classes)))

    def after(self, pilots: tuple[Pilot, ...], seconds_per_image: float | None) -> "Stopping":
        """With the pilots of one more block: what is wanted by them, but no more than twice what is there."""
        known = self.model_copy(update={"pilots": pilots, "seconds_per_image": seconds_per_image})
        law, sizes = Law.of(pilots), [pilot.images_per_class for pilot in pilots]
        block = {"images_per_class": min(known.wanted, 2 * max(sizes)), "curve": curve(law, min(sizes), self.most)}
        return known.model_copy(update=block)

    @property
    def words(self) -> tuple[str, str]:
        """What is foretold, and what was decided, for people."""
        law = Law.of(self.pilots)
        here, most = law.at(self.wanted), law.at(self.most)
        by = self.judges or "held-out synthetic images (real ones are harder: --validation judges by those)"
        beyond = f", {self.most:,} {most.accuracy:.1%} ({most.low:.1%} to {most.high:.1%})"
        foretold = (
            f"{self.wanted:,} images a class are foretold {here.accuracy:.1%} ({here.low:.1%} to {here.high:.1%})"
            f"{beyond if self.wanted < self.most else ''}, by {by}"
        )
        if not self.decided:
            return foretold, f"{self.images_per_class:,} images a class are drawn first, for one more pilot"
        why = f"less than {self.until.words} is to be gained beyond"
        if self.wanted == self.most:
            why = f"all that may be, though {self.until.words} or more are foretold to be gained beyond"
        return foretold, f"{self.images_per_class:,} images a class are drawn: {why}"


def synthesize_until(
    engine: Engine,
    merged: Merged,
    settings: SynthesisSettings,
    until: Until,
    out: Path,
    pilot_images: int,
    validation: LabelledImages | None = None,
    judge: Judge | None = None,
) -> tuple[SynthesisResult, Stopping]:
    """Draw a data set until more images gain too little, but no more than the settings say; run again, it goes on.

    Pilots learn from `pilot_images` of each class. The real images of `validation` judge them; without, every fifth
    synthetic image is held out and judges. The settings name the fingerprint of the judge that scores images, if any.

    Raises:
        UsageError: `check_asked` refuses, or `out` holds a data set drawn otherwise.
        BadInputError: the payloads do not fit the engine, or no validation image is of a class that is drawn.
    """
    check_asked(settings.images_per_class, pilot_images)
    plan = plan_synthesis(engine, merged, settings)
    side = min(SIDE, engine.build.image_size)
    judges = Judges.of(validation, merged.class_names, plan.present, side) if validation else None
    asked = Stopping(
        plan=plan.digest(),
        most=settings.images_per_class,
        pilot_images=pilot_images,
        until=until,
        judges=validation.source if validation else "",
        judged_by=judges.digest() if judges else "",
        classes=len(plan.present),
    )
    key = engine.manifest.key
    record = _begun(out, asked, lambda: plan_of(key.weights, key.build.image_size, merged, settings).digest())

    def draw(images_per_class: int) -> SynthesisResult:
        sized = settings.model_copy(update={"images_per_class": images_per_class})
        return synthesize(engine, merged, sized, out, update=True, judge=judge)

    done = None
    while True:
        made = draw(record.images_per_class or pilot_images)
        done = _both(done, made) if done else made
        if record.decided:
            break
        pool = Pool.of(out, record.images_per_class or pilot_images, side)
        record = _learned(record, pool, judges or pool.judges(), lambda: seconds_per_image(engine, settings.sampling))
        record.save(out / RECORD)
        for line in record.words:
            note(line)
    return done, record


def _learned(record: Stopping, pool: Pool, judges: Judges, seconds: Callable[[], float]) -> Stopping:
    """The record with what a block's pilots say."""
    pilots = (*record.pilots, one_more(pool, judges)) if record.pilots else tuple(run_pilots(pool, judges))
    took = record.seconds_per_image
    if took is None and record.until.per == "minute":
        took = seconds()
    return record.after(pilots, took)


def check_asked(most: int, pilot_images: int) -> None:
    """Refuse numbers that leave pilots nothing to learn, or nothing to decide.

    Raises:
        UsageError: they do.
    """
    if pilot_images < FEWEST:
        raise UsageError(f"pilots cannot learn from {pilot_images} images a class", f"give {FEWEST} or more")
    if most <= pilot_images:
        raise UsageError(
            f"pilots take {pilot_images} images of each class, and no more than {most} may be drawn",
            "raise --images-per-class, lower --pilot-images, or leave --until-gain out",
        )


def check_folder(out: Path) -> None:
    """Refuse a folder with a data set that no stop rule was drawing: the pilots' part would take its place.

    Raises:
        UsageError: it is one.
    """
    if (out / FACTS).exists() and not (out / RECORD).exists():
        raise UsageError(
            f"{out} holds a data set that was drawn without --until-gain",
            "choose another --out, or leave --until-gain out",
        )


def curve(law: Law, least: int, most: int) -> tuple[Predicted, ...]:
    """What a law says of numbers of images a class from `least` to `most`, evenly by their logarithms."""
    numbers = np.unique(np.geomspace(least, most, POINTS_SHOWN).round().astype(int))
    return tuple(law.at(int(number)) for number in numbers)


def _begun(out: Path, asked: Stopping, earlier: Callable[[], str]) -> Stopping:
    """What the folder says of this very run, or else a beginning; written before anything is drawn.

    `earlier` gives the plan's digest as versions of before had it, which looked at the generator's weights alone.
    """
    check_folder(out)
    if not (out / RECORD).exists():
        out.mkdir(parents=True, exist_ok=True)
        asked.save(out / RECORD)
        return asked
    there, found = Stopping.from_json(out / RECORD), {"pilots", "seconds_per_image", "images_per_class", "curve"}
    if there.plan != asked.plan and there.plan == earlier():
        there = there.model_copy(update={"plan": asked.plan})
    if differing := differences(*(one.model_dump(mode="json", exclude=found) for one in (there, asked))):
        raise UsageError(
            f"{out} holds a data set that was drawn until something else: {differing}",
            "choose another --out, or leave --until-gain out",
        )
    return there


def _both(first: SynthesisResult, then: SynthesisResult) -> SynthesisResult:
    """What two calls did for one data set."""
    summed = ("images", "seconds", "network_seconds", "bytes", "redrawn")
    sums = {name: getattr(first, name) + getattr(then, name) for name in summed}
    return replace(then, found=max(0, then.found - first.images), **sums)
