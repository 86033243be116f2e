"""Any picture that Pillow decodes as 8-bit RGB: upright, transparency on white, deep grey scaled."""

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

# What white may be in a grey image of more than 8 bits; files of 16 bits hold 12 as often, and files of 32 bits 16.
WHITES: dict[str, tuple[float, ...]] = {
    "I;16": (255, 4095, 65535),
    "I": (255, 4095, 65535, 2**31 - 1, 2**32 - 1),
    "F": (1, 255),
}
DARKEST = 16  # an image whose largest value is a smaller part of white is of no range that is known
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BITS_PER_SAMPLE, SAMPLE_FORMAT, UNSIGNED = 258, 339, 1  # TIFF 6.0
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # likewise


def to_rgb(image: Image.Image, white: float | None = None) -> Image.Image:
    """Any PIL mode to RGB: EXIF orientation applied, transparency on white, deep grey scaled to 8 bits.

    Of an image of mode I or F, `white` is the value that is white; without it, `white_of` its own largest.

    Raises:
        ValueError: a deep grey image has no such value, or holds what none is.
    """
    image = _upright(image)
    if deep := deepest(image):
        values, clear = _values(image), image.info.get("transparency")
        levels = np.rint(values * (255.0 / (white or white_of(*deep)))).clip(0, 255).astype(np.uint8)
        image = Image.fromarray(levels if clear is None else np.where(values == clear, np.uint8(255), levels))
    if "A" in image.getbands() or "transparency" in image.info:
        colour = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour)
    return image.convert("RGB")


def deepest(image: Image.Image) -> tuple[str, float] | None:
    """The kind (`I;16`, `I` or `F`) and largest value of a grey image of more than 8 bits; None of any other.

    Of an image whose white is zero, the value that its white becomes.

    Raises:
        ValueError: it holds NaN, infinity or values below zero, or its white is zero and its black is not known.
    """
    if image.mode.partition(";")[0] not in WHITES:
        return None
    values = _values(image)
    if not np.isfinite(values).all():
        raise ValueError("values that are no numbers (NaN or infinity)")
    if values.min() < 0:
        raise ValueError(f"values below zero, down to {values.min():g}: what is black is not known")
    kind = "I;16" if image.mode.startswith("I;16") else image.mode
    return kind, float(WHITES[kind][-1] if _is_negative(image) else values.max())


def white_of(kind: str, peak: float) -> float:
    """The value that is white where `peak` is the largest: the end of the narrowest range that holds it.

    Raises:
        ValueError: none does, or only one in which all would be nearly black.
    """
    white = range_of(kind, peak)
    if peak > white or (white > WHITES[kind][0] and peak * DARKEST < white):
        ranges = ", ".join(f"0 to {white:.0f}" for white in WHITES[kind])
        raise ValueError(f"values up to {peak:g} are of no known range ({ranges})")
    return white


def range_of(kind: str, peak: float) -> float:
    """The end of the narrowest usual range that holds `peak`; of the widest if none does."""
    return next((white for white in WHITES[kind] if peak <= white), WHITES[kind][-1])


def _values(image: Image.Image) -> NDArray[np.float64]:
    """The values [H,W] of a deep grey image, black as 0; Pillow takes unsigned ones of 32 bits for signed."""
    values = np.asarray(image, dtype=np.float64)
    tags = getattr(image, "tag_v2", {})
    if image.mode == "I" and tags.get(BITS_PER_SAMPLE) == (32,) and tags.get(SAMPLE_FORMAT, (UNSIGNED,)) == (UNSIGNED,):
        values = np.where(values < 0, values + 2.0**32, values)
    return _positive(values, image.mode) if _is_negative(image) else values


def _is_negative(image: Image.Image) -> bool:
    """Whether zero is white in a TIFF; Pillow turns those of up to 8 bits itself, and no deeper ones."""
    return bool(getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO)


def _positive(values: NDArray[np.float64], mode: str) -> NDArray[np.float64]:
    """Values whose white is zero, turned round: of 16 bits that are all used, 65535 is black.

    Raises:
        ValueError: they are of another kind, or may be of fewer bits.
    """
    black, peak = WHITES["I;16"][-1], values.max()
    if mode != "I;16" or range_of(mode, peak) < black:
        raise ValueError(
            f"0 is white, and what is black beside values up to {peak:g} is not known; save it with 0 as black"
        )
    return black - values


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says: that tag alone is read, so that no other can lose a sound photo."""
    try:
        method = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # whatever Pillow raises of tags that are malformed; the picture is not
        return image
    return image if method is None else image.transpose(method)
