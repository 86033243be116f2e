"""Damaged shards of a data set made anew, byte for byte."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from fglfast.base.console import Progress
from fglfast.base.errors import UsageError
from fglfast.base.wording import differences
from fglfast.engine.build import Engine
from fglfast.generator.fingerprints import model_fingerprint
from fglfast.payload.merge import Merged
from fglfast.sampler.guide import Guide
from fglfast.shards.checksums import read_checksum
from fglfast.shards.description import LOCKS
from fglfast.shards.locks import locked
from fglfast.shards.tar import shard_name
from fglfast.synthesis.conditioning import Conditioning
from fglfast.synthesis.draw import Drawer
from fglfast.synthesis.drawn import Drawn, engine_of
from fglfast.synthesis.judge import Judge, check_judge, scores_of
from fglfast.synthesis.plan import Plan
from fglfast.synthesis.synthesize import describer
from fglfast.synthesis.verify import Checked
from fglfast.synthesis.writer import Shard, ShardWriter


def repair(engine: Engine, merged: Merged, out: Path, checked: Sequence[Checked], judge: Judge | None = None) -> int:
    """Draw the damaged and missing shards again, and only those, as the plan of the folder says.

    A shard whose checksum is known takes its place only if it has that checksum.

    Returns:
        Draws that came out blank and were made again.

    Raises:
        BadInputError: the payloads are not those of the data set, or do not fit the engine.
        UsageError: the engine is not the one that drew the data set, or another run is at work in it.
        FglError: a shard came out otherwise; what is there is left as it is.
    """
    drawn = Drawn.of(out)
    refuse_older(drawn, out)
    check_judge(drawn.judge, judge)
    plan = drawn.plan_with(merged)
    _check_engine(engine, drawn, out, [shard.number for shard in checked if not shard.problem])
    drawer = Drawer(engine, plan, Conditioning(merged, engine), drawn.sampling)
    numbers = [shard.number for shard in checked if shard.problem]
    (out / LOCKS).mkdir(exist_ok=True)
    with (
        locked(out),
        ShardWriter(drawn.image_format, describer(plan, engine.key)) as writer,
        Progress("repair", sum(map(plan.size, numbers))) as progress,
    ):
        for items, pixels_BSS3 in drawer.batches(writer.items(_shards(plan, out, numbers))):
            writer.add(items, pixels_BSS3, scores_of(judge, items, pixels_BSS3, drawer.batch))
            progress.advance(len(items))
    return drawer.redrawn


def _shards(plan: Plan, out: Path, numbers: Sequence[int]) -> Iterator[Shard]:
    for number in numbers:
        items, path = plan.shard(number), out / shard_name(number)
        yield Shard(path, items, items, expected=read_checksum(path))


def check_model(out: Path, model: Path, image_size: int) -> None:
    """Refuse, before an engine is built, a model that did not draw a data set, and one that cannot be drawn again.

    Raises:
        UsageError: it did not, or not at this size; or the data set is of an earlier version.
    """
    refuse_older(drawn := Drawn.of(out), out)
    _check_weights(drawn, out, model, model_fingerprint(model), image_size)


def refuse_older(drawn: Drawn, out: Path) -> None:
    """Refuse a data set whose images were named by the place of their row: this version would draw others.

    Raises:
        UsageError: it is one.
    """
    if not drawn.by_content:
        raise UsageError(
            f"{out} was drawn by an earlier version of fglfast (format {drawn.format_version}), and cannot be drawn by "
            "this one",
            "draw anew into another folder",
        )


def _check_weights(drawn: Drawn, out: Path, model: Path, weights: str, image_size: int) -> None:
    if (weights, image_size) != (drawn.weights, drawn.image_size):
        raise UsageError(
            f"{out} was drawn with weights {drawn.weights[:16]} at {drawn.image_size} pixels, {model.name} has "
            f"{weights[:16]} at {image_size}",
            "give the --recipe and --model that drew it",
        )
    if drawn.generator and (here := Guide.of(model, drawn.sampling)) != drawn.generator:
        differing = differences(drawn.generator.model_dump(), here.model_dump())
        raise UsageError(
            f"{model.name} is not as it was when it drew {out}: {differing}",
            "put back its model_index.json and prompts.json",
        )


def _check_engine(engine: Engine, drawn: Drawn, out: Path, sound: Sequence[int]) -> None:
    """Refuse an engine of other weights, and one that drew none of the sound shards."""
    key = engine.manifest.key
    _check_weights(drawn, out, engine.model, key.weights, key.build.image_size)
    engines = {engine_of(out / shard_name(number)) for number in sound} - {None}
    if engines and engine.key not in engines:
        names = ", ".join(sorted(map(str, engines)))
        raise UsageError(
            f"{out} was drawn by engine {names}, this is engine {engine.key}",
            "give the --recipe, --backend, --precision and --batch-size that drew it, on the machine that did",
        )
