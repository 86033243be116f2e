"""Images from strangers: none that starts another program, none too large to hold."""

import io
from functools import cache
from pathlib import Path, PurePath

from PIL import Image, UnidentifiedImageError

from fglfast.base.folders import is_system

MOST_SIDE = 4096  # pixels, of an image of a data set or of what a model takes
MOST_BYTES = 256 << 20  # of a file that is tried as an image
PROGRAMS = {"EPS"}  # formats that Pillow hands to another program, here Ghostscript
DEEP, COLOURS = ";16", ("RGB", "RGBA", "LA")  # how Pillow calls samples of 16 bits; where it keeps the upper eight
NARROWED = "narrowed"  # of an image's info: it was so
OTHERS = {"MPEG", "HDF5", "BUFR", "GRIB", "WMF"}  # that it only recognises


def decoded(content: bytes) -> Image.Image:
    """Decode an image of any format that Pillow reads by itself; its own limit on pixels holds.

    Raises:
        Exception: as each of Pillow's decoders does.
    """
    if not content:
        raise ValueError("zero bytes")
    image = opened(content, _formats())
    deep = any(DEEP in str(tile[3]) for tile in getattr(image, "tile", ()))
    image.load()
    if deep and image.mode in COLOURS:
        image.info[NARROWED] = True
    return image


def opened(content: bytes, formats: tuple[str, ...]) -> Image.Image:
    """Open an image of one of some formats, undecoded.

    Raises:
        ValueError: it is of none; Pillow would name a place in memory.
        Exception: as each of Pillow's decoders does.
    """
    try:
        return Image.open(io.BytesIO(content), formats=formats)
    except UnidentifiedImageError as error:
        raise ValueError("not recognised as an image") from error


def named_like_an_image(name: str) -> bool:
    """Whether a file's name ends as those of a format of images do, and not of films or tables."""
    Image.init()
    kind = Image.EXTENSION.get(PurePath(name).suffix.lower())
    return kind == "MPO" or kind in set(Image.ID) - OTHERS


def any_image(folder: Path) -> bool:
    """Whether what is named like an image lies in a folder, however deep, and is no system's."""
    return any(
        named_like_an_image(path.name) and not any(map(is_system, path.relative_to(folder).parts))
        for path in folder.rglob("*")
    )


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.ID if name not in PROGRAMS | OTHERS)
