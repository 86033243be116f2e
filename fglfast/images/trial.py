"""Every image of a data set decoded once, so that none fails later."""

import os
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fglfast.base.console import note
from fglfast.base.errors import BadInputError
from fglfast.base.folders import leads_out
from fglfast.base.untrusted import read_bytes
from fglfast.base.wording import first_line, some
from fglfast.images.decoding import MOST_BYTES, NARROWED, decoded
from fglfast.images.labelled import LabelledImages, Opener, Scaled, Skipped
from fglfast.images.pixels import DARKEST, WHITES, deepest, to_rgb, white_of

Candidate = tuple[str, int, Opener]  # what an image is called, its label, and how it is opened
WHOLE = {"MPO", "PSD"}  # their first frame is the picture: a phone's photo before its depth, layers put together
SHOWN = 3  # images that a note names
DARK = 16  # of 16 bits, whose lower eight are dropped, 12 leave four of the upper ones
KINDS = {"I;16": "16-bit", "I": "32-bit", "F": "float"}


@dataclass(frozen=True)
class Tried:
    """What decoding an image showed.

    Attributes:
        reason: why it cannot be used.
        frames: how many there are.
        kind: of a deep grey one.
        peak: its largest value.
        highest: its largest value as RGB, if it is not deep grey.
        dark: whether it is of 16 bits a colour, of which the upper eight say next to nothing.
        checksum: of its pixels.
    """

    reason: str = ""
    frames: int = 1
    kind: str = ""
    peak: float = 0.0
    highest: int = 255
    dark: bool = False
    checksum: int = 0


def verified(names: tuple[str, ...], candidates: Sequence[Candidate], source: str) -> LabelledImages:
    """Decode all candidates; those that cannot be are left out.

    Grey images of more than 8 bits rarely say how many they use: 12 bits of a camera lie in files of 16. What is white
    is a fact of the data set, so the largest value of all its images decides, and a note says how.

    Raises:
        BadInputError: the largest value of the grey images fits no range that is usual.
    """
    with ThreadPoolExecutor() as pool:
        tried = list(pool.map(lambda candidate: _try(candidate[2]), candidates))
    whites = {kind: _white(kind, candidates, tried, source) for kind in {one.kind for one in tried if one.kind}}
    pairs = list(zip(candidates, tried, strict=True))
    if several := [f"{name} ({one.frames})" for (name, _, _), one in pairs if one.frames > 1]:
        note(f"{source}: of images with several frames or pages the first alone is used: {some(several, SHOWN)}")
    if dark := [name for (name, _, _), one in pairs if one.dark]:
        advice = "they seem to hold fewer bits than their files say; save them with 8"
        note(f"{source}: images of 16 bits a colour are read as nearly black: {some(dark, SHOWN)}; {advice}")
    tell_black(max((one.highest for one in tried if not one.reason), default=0), source)
    kept = [(name, label, opener, one) for (name, label, opener), one in pairs if not one.reason]
    return LabelledImages(
        names,
        np.array([label for _, label, _, _ in kept], dtype=np.int64),
        tuple(Scaled(opener, whites[one.kind]) if one.kind else opener for _, _, opener, one in kept),
        tuple(Skipped(name, one.reason) for (name, _, _), one in pairs if one.reason),
        source,
        tuple(name for name, _, _, _ in kept),
        tuple(one.checksum for _, _, _, one in kept),
    )


def tell_black(highest: int, source: str) -> None:
    """Say of images that hold nothing over 1, as masks do, that they are nearly black."""
    if highest == 1:
        note(f"{source}: images hold no value over 1, of 255, and are nearly black; multiply by 255 if 1 is white")


def offered(files: Iterable[tuple[str, int, Path]], folder: Path) -> tuple[list[Candidate], list[Skipped]]:
    """What may be an image of a data set, of files with name, label and place; and the links that lead out of it."""
    candidates, outside = list[Candidate](), list[Skipped]()
    for name, label, file in files:
        if leads_out(file, folder):
            outside.append(Skipped(name, "a link that leads out of the data set"))
        elif os.path.isdir(file):  # noqa: PTH112 (raises of none that cannot be reached)
            outside.append(Skipped(name, "a link to another folder of the data set"))
        else:
            candidates.append((name, label, file_opener(file)))
    return candidates, outside


def file_opener(path: Path) -> Opener:
    """Opens an image file."""
    return lambda: decoded(read_bytes(path, MOST_BYTES))


def _try(opener: Opener) -> Tried:
    try:
        image = opener()
        deep = deepest(image)
        seen = image if deep else to_rgb(image)
        highest = 255 if deep else max(extreme for _, extreme in seen.getextrema())  # type: ignore[misc]
        dark = bool(image.info.get(NARROWED)) and 0 < highest < DARK
        frames = 1 if image.format in WHOLE else getattr(image, "n_frames", 1)
    except Exception as error:  # PIL raises what each of its decoders raises
        return Tried(first_line(error))
    return Tried("", frames, *(deep or ("", 0.0)), highest, dark, zlib.crc32(seen.tobytes()))


def _white(kind: str, candidates: Sequence[Candidate], tried: Sequence[Tried], source: str) -> float:
    """The value that is white in all images of a kind."""
    of_kind = [(one.peak, name) for one, (name, _, _) in zip(tried, candidates, strict=True) if one.kind == kind]
    peak, name = max(of_kind)
    try:
        white = white_of(kind, peak)
    except ValueError as error:
        raise BadInputError(f"{source}: {KINDS[kind]} image {name}: {error}", "save it with 8 or 16 bits") from error
    dark = [one for one, _ in of_kind if one * DARKEST < white]
    if white > WHITES[kind][0] and 2 * len(dark) > len(of_kind):
        note(
            f"{source}: {len(dark):,} of {len(of_kind):,} {KINDS[kind]} grey images hold no value over "
            f"{max(dark):.9g}, and are nearly black beside {name}, with {peak:.9g}; if all are of one range, leave out "
            "or mend those with more"
        )
    if (kind, white) != ("I;16", 65535):
        scale = f"read as 0 (black) to {white:.0f} (white)"
        note(f"{source}: {KINDS[kind]} grey images hold values up to {peak:.9g}: {scale}")
    return white
