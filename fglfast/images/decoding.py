"""Images from strangers: none that starts another program, none too large to hold. Knows no class."""

import io
from functools import cache

from PIL import Image

MOST_SIDE = 4096  # pixels, of an image of a data set or of what a model takes
MOST_BYTES = 256 << 20  # of a file that is tried as an image
PROGRAMS = {"EPS"}  # formats that Pillow hands to another program, here Ghostscript


def decoded(content: bytes) -> Image.Image:
    """Decode an image of any format that Pillow reads by itself; its own limit on pixels holds.

    Raises:
        Exception: as each of Pillow's decoders does.
    """
    if not content:
        raise ValueError("zero bytes")
    image = Image.open(io.BytesIO(content), formats=_formats())
    image.load()
    return image


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.ID if name not in PROGRAMS)
