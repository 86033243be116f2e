"""Whether a synthetic data set is what its plan says, shard by shard. Reads only; knows no engine."""

import struct
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from fglfast.base.console import Progress
from fglfast.base.errors import BadInputError, IncompleteError
from fglfast.base.files import file_digest
from fglfast.base.folders import leads_out, numbered
from fglfast.base.wording import first_line
from fglfast.images.decoding import opened
from fglfast.payload.merge import Merged
from fglfast.shards.checksums import Hashing, read_checksum
from fglfast.shards.description import FACTS
from fglfast.shards.tar import Sample, samples_of, shard_name, write_tar
from fglfast.synthesis.drawn import Drawn
from fglfast.synthesis.plan import REDRAWS, Item, Plan

PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
MOST_MISSING = 100_000  # shards; where more are, nothing is damaged but the run that makes them is not done
DAMAGE = (tarfile.TarError, OSError, EOFError, Image.DecompressionBombError, SyntaxError, struct.error)  # of readers
Identity = tuple[Any, ...]  # class, row and ordinal of an image
SAID = {"class", "row", "ordinal", "seed", "engine"}  # of each image; "redraw" of some; "score" where there is a judge
OF_OLDER = {"client", "payload"}  # that older versions say besides
NONSENSE = (ValueError, TypeError, LookupError, RecursionError)  # what a member's content leads to


@dataclass(frozen=True)
class Checked:
    """One shard.

    Attributes:
        number: which.
        how: what it was held against.
        problem: what is wrong with it; empty if nothing is.
    """

    number: int
    how: str
    problem: str


def verify(out: Path, merged: Merged | None = None) -> list[Checked]:
    """Check every shard of a data set: against its checksum, or, where none was written, member by member.

    The latter reads the tar to its last byte, decodes all images and compares labels and identities with the plan, as
    the rows in `dataset.json` tell it. Those of a data set by an earlier version are not told: its images are compared
    with its other facts. The payloads, if they are given, have to be those that the rows came from.

    Raises:
        BadInputError: the folder is no data set, holds shards beyond its plan, or the payloads are not its own.
        IncompleteError: more than `MOST_MISSING` shards are not there.
    """
    drawn = Drawn.of(out)
    plan = drawn.layout if drawn.by_content else None
    if merged and plan:
        drawn.plan_with(merged)
    there, surplus = numbered(out, shard_name, drawn.shards)
    if surplus:
        raise BadInputError(f"{out} holds {min(surplus)}, which its plan does not", "remove what does not belong there")
    if drawn.shards - len(there) > MOST_MISSING:
        missing = f"{drawn.shards - len(there)} of {drawn.shards} shards"
        raise IncompleteError(f"{out} lacks {missing}", "run synthesize again, it goes on where it stopped")
    checked, seen = [], set[Identity]()
    with Progress("verify", drawn.shards, unit="shard") as progress:
        for number in range(drawn.shards):
            checked.append(_check(out / shard_name(number), number, drawn, plan, seen))
            progress.advance(1)
    return checked


def _check(path: Path, number: int, drawn: Drawn, plan: Plan | None, seen: set[Identity]) -> Checked:
    expected = read_checksum(path)
    how = "structure" if expected is None else "checksum"
    if not path.is_file():
        return Checked(number, how, "missing")
    if leads_out(path, path.parent):
        return Checked(number, how, "damaged: a link that leads out of the data set")
    try:
        if expected is None:
            _check_structure(path, number, drawn, plan, seen)
        elif file_digest(path) != expected:
            return Checked(number, how, "damaged: its checksum is another")
    except (*DAMAGE, *NONSENSE) as error:
        return Checked(number, how, f"damaged: {first_line(error)}")
    return Checked(number, how, "")


def _check_structure(path: Path, number: int, drawn: Drawn, plan: Plan | None, seen: set[Identity]) -> None:
    """Compare a shard with what its own members make, and those with the plan and with all images `seen` before.

    Raises:
        Exception: `DAMAGE` or `NONSENSE`.
    """
    start = number * drawn.shard_size
    indices = range(start, min(start + drawn.shard_size, drawn.images))
    hashing, engines = Hashing(), set[str]()

    def samples() -> Iterator[Sample]:
        for index, (name, sample) in zip(indices, samples_of(stream), strict=True):
            if name != f"{index:09d}.{drawn.image_format}":
                raise ValueError(f"{name} is not where it should be")
            _check_image(sample, drawn)
            identity = _check_identity(sample, drawn, plan.item(index) if plan else None)
            if identity in seen and not plan:
                raise ValueError(f"{sample.key} is an image that is there already")
            seen.add(identity)
            engines.add(sample.facts["engine"])
            yield sample

    with path.open("rb") as stream:
        write_tar(hashing, samples(), drawn.image_format)
    if len(engines) > 1:  # as an update by another engine leaves them, but with a checksum
        raise ValueError("its images name several engines")
    if hashing.digest() != file_digest(path):
        raise ValueError("not the bytes that synthesize writes")


def _check_image(sample: Sample, drawn: Drawn) -> None:
    """Decode an image to see that it can be: its size first, then PNG's checksums and end, which decoding skips."""
    kinds = (drawn.image_format.upper(),)
    with opened(sample.image, kinds) as image:
        if (image.size, image.mode) != ((drawn.image_size, drawn.image_size), "RGB"):
            raise ValueError(f"{sample.key}: {image.mode} of {image.size[0]}x{image.size[1]} pixels")
        image.verify()
    with opened(sample.image, kinds) as image:
        image.load()
    if drawn.image_format == "png" and sample.image.find(PNG_END) != len(sample.image) - len(PNG_END):
        raise ValueError(f"{sample.key}: other bytes follow the end of the image")


def _check_identity(sample: Sample, drawn: Drawn, item: Item | None) -> Identity:
    """Compare what `KEY.json` says with the plan; returns the image's identity."""
    said = sample.facts
    fits = (
        set(said) - {"redraw"} == (SAID if item else SAID | OF_OLDER) | ({"score"} if drawn.judge else set())
        and sample.label < len(drawn.class_names)
        and (said["class"], said["seed"]) == (sample.label, drawn.seed)
        and (item is not None or (said["client"], said["payload"]) in drawn.senders)
        and isinstance(said["engine"], str)
        and said.get("redraw", 1) in range(1, REDRAWS + 1)
    )
    if not fits:
        raise ValueError(f"{sample.key}.json contradicts its label or {FACTS}")
    identity = (said["class"], said["row"], said["ordinal"])
    if item and identity != (item.label, item.digest, item.ordinal):
        raise ValueError(f"{sample.key} is another image than the plan's")
    return identity
