"""Small encoded images, and folders of them."""

import io

from PIL import Image


def png(value=128, size=(6, 4), mode="RGB"):
    buffer = io.BytesIO()
    Image.new(mode, size, value if mode in {"L", "I;16"} else (value,) * len(mode)).save(buffer, "PNG")
    return buffer.getvalue()


def lay_out(folder, *paths):
    """Write an image under each path below a folder."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(png())
    return folder
