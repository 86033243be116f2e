"""Own images beside drawn ones, a row a class, as one PNG."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from fglfast.base.files import write_atomic
from fglfast.lab.probe.findings import ClassImages, Pixels
from fglfast.lab.probe.verdict import Findings

COLUMNS = 8  # images of a kind
TILE, GAP, HEAD, LABEL = 64, 16, 28, 190  # pixels
MOST_LETTERS = 24
PAPER, INK = (255, 255, 255), (30, 30, 30)


def write_picture(compared: Sequence[ClassImages], findings: Findings, path: Path) -> None:
    """Write a grid of held-out own images, left, and drawn ones, right. It shows private images: keep it as those."""
    verdicts = {found.name: found.verdict for found in findings.classes}
    right = LABEL + COLUMNS * TILE + GAP
    page = Image.new("RGB", (right + COLUMNS * TILE, HEAD + len(compared) * TILE), PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    pen.text((LABEL, 6), "your own (private)", INK, font)
    pen.text((right, 6), "drawn by the generator", INK, font)
    for row, part in enumerate(compared):
        top = HEAD + row * TILE
        name = part.name if len(part.name) <= MOST_LETTERS else f"{part.name[: MOST_LETTERS - 3]}..."
        pen.text((6, top + 14), f"{name}\n{verdicts[part.name]}", INK, font)
        page.paste(_strip(part.held_out), (LABEL, top))
        page.paste(_strip(part.drawn), (right, top))
    buffer, told = io.BytesIO(), PngImagePlugin.PngInfo()
    told.add_text("Software", "fglfast probe")  # so that the next one may take its place
    page.save(buffer, "PNG", pnginfo=told)
    write_atomic(path, buffer.getvalue())


def _strip(pixels_HSS3: Pixels) -> Image.Image:
    """The first images side by side, pixels unblurred."""
    row = Image.fromarray(np.concatenate(list(pixels_HSS3[:COLUMNS]), axis=1))
    return row.resize((TILE * min(COLUMNS, len(pixels_HSS3)), TILE), Image.Resampling.NEAREST)
