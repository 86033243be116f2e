"""Damaged shards of a data set made anew, byte for byte. Knows what is damaged from `verify`."""

from collections.abc import Sequence
from pathlib import Path

from fglfast.base.console import Progress
from fglfast.base.errors import UsageError
from fglfast.engine.build import Engine
from fglfast.generator.load import weights_fingerprint
from fglfast.payload.merge import Merged
from fglfast.shards.checksums import read_checksum
from fglfast.shards.description import LOCKS
from fglfast.shards.locks import locked
from fglfast.shards.tar import shard_name
from fglfast.synthesis.conditioning import Conditioning
from fglfast.synthesis.draw import Drawer
from fglfast.synthesis.drawn import Drawn, engine_of
from fglfast.synthesis.synthesize import describer, draw_shard
from fglfast.synthesis.verify import Checked
from fglfast.synthesis.writer import ShardWriter


def repair(engine: Engine, merged: Merged, out: Path, checked: Sequence[Checked]) -> int:
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
    plan = drawn.plan_with(merged)
    _check_engine(engine, drawn, out, [shard.number for shard in checked if not shard.problem])
    drawer = Drawer(engine, plan, Conditioning(merged, engine), drawn.sampling)
    numbers = [shard.number for shard in checked if shard.problem]
    (out / LOCKS).mkdir(exist_ok=True)
    with (
        locked(out),
        ShardWriter(drawn.image_format, describer(plan, merged, engine)) as writer,
        Progress("repair", sum(map(plan.size, numbers))) as progress,
    ):
        for number in numbers:
            path = out / shard_name(number)
            draw_shard(drawer, number, writer, progress)
            writer.finish_shard(path, read_checksum(path))
    return drawer.redrawn


def check_model(out: Path, model: Path, image_size: int) -> None:
    """Refuse, before an engine is built, a model that did not draw a data set.

    Raises:
        UsageError: it did not, or not at this size.
    """
    _check_weights(Drawn.of(out), out, model, weights_fingerprint(model), image_size)


def _check_weights(drawn: Drawn, out: Path, model: Path, weights: str, image_size: int) -> None:
    if (weights, image_size) != (drawn.weights, drawn.image_size):
        raise UsageError(
            f"{out} was drawn with weights {drawn.weights[:16]} at {drawn.image_size} pixels, {model.name} has "
            f"{weights[:16]} at {image_size}",
            "give the --recipe and --model that drew it",
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
            "give the --recipe, --backend and --batch-size that drew it, on the machine that did",
        )
