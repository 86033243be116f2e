"""Images of an npz file: arrays `images`, `labels`, `class_names`; of a split `train_images`, ..."""

import zlib
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fglfast.base.errors import BadInputError
from fglfast.base.untrusted import loading
from fglfast.base.wording import some
from fglfast.images.arrays import read_arrays
from fglfast.images.columns import check_any, check_range, counted, plain_names
from fglfast.images.labelled import UNLABELLED, LabelledImages
from fglfast.images.splits import chosen
from fglfast.images.trial import tell_black


def read_npz(path: Path, split: str | None, source: str, labelled: bool = True) -> LabelledImages:
    """Read an npz file, or one split of it; unlabelled, its images alone.

    Raises:
        BadInputError: it is none, has no such split, or an array is not as it must be.
    """
    with loading(path, "give an npz file of plain arrays, as numpy.savez leaves them, and whole"):
        present, _ = read_arrays(path, ())
        prefix = _prefix(present, split, source)
        wanted = (f"{prefix}images", f"{prefix}labels", "class_names")
        _, found = read_arrays(path, wanted if labelled else wanted[:1])
        images, labels, names = map(found.get, wanted)
    if images is None:
        raise BadInputError(f"{path}: no array named images", "add images")
    if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3, 4))):
        unit = "; multiply values from 0 to 1 by 255 first" if images.dtype.kind in "fb" else ""
        raise BadInputError(
            f"{path}: {prefix}images is {images.dtype} {list(images.shape)}",
            f"need uint8 [N,H,W] or [N,H,W,1|3|4]{unit}",
        )
    if not labelled:
        labels, names = np.zeros(len(images), dtype=np.int64), np.array([UNLABELLED])
    if labels is None:
        raise BadInputError(f"{path}: no array named {prefix}labels", "add it: one integer an image")
    labels = labels[:, 0] if labels.shape == (len(images), 1) else labels  # MedMNIST's
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise BadInputError(
            f"{path}: {prefix}labels is {labels.dtype} {list(labels.shape)}", f"need {len(images)} integers"
        )
    labels = labels.astype(np.int64)
    listed = labels.tolist()
    check_any(listed, path)
    called_by = counted(int(labels.max(initial=-1)) + 1, path) if names is None else _texts(names, path)
    check_range(listed, len(called_by), path)
    images = images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images
    openers = tuple(partial(Image.fromarray, pixels) for pixels in images)
    called = tuple(f"row {row}" for row in range(len(images)))
    tell_black(int(images.max(initial=0)), source)
    checksums = tuple(zlib.crc32(np.ascontiguousarray(pixels).data) for pixels in images)
    return LabelledImages(called_by, labels, openers, (), source, called, checksums)


def _texts(names: NDArray[np.generic], path: Path) -> tuple[str, ...]:
    """Class names as text; h5py and TensorFlow save them as bytes."""
    try:
        texts = [name.decode() if isinstance(name, bytes) else str(name) for name in names.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path}: class_names are bytes that are no UTF-8", "save them as text") from error
    return tuple(map(plain_names([texts], path), texts))


def _prefix(present: list[str], split: str | None, source: str) -> str:
    """How the names of the wanted arrays begin; those without a prefix are what no split names."""
    splits = [name.removesuffix("_images") for name in present if name.endswith("_images")]
    if split is None and splits and "images" in present:
        hint = f"name one: {some([f'{source}:{name}' for name in splits])}; or save images as train_images"
        raise BadInputError(f"{source}: holds images and {splits[0]}_images, and no split is named", hint)
    if split is None and ("images" in present or not splits):
        return ""
    return f"{chosen(source, splits, split)}_"
