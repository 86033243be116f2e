"""What must be true of a payload's tensors, in a file and in memory. Reads and writes nothing."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fglfast.payload.coding import FLOAT16_MAX, STEPS
from fglfast.payload.header import ROUTED_VERSION, refuse
from fglfast.payload.rows import Payload, row_key

MAX_IMAGES = 1 << 48  # of one payload: the images of 32,768 clients still add up within int64
MAX_TOKENS = 4096  # of one prompt

DTYPES: dict[str, Any] = {
    "F16": np.float16,
    "F32": np.float32,
    "I8": np.int8,
    "U16": np.uint16,
    "I32": np.int32,
    "I64": np.int64,
}
Specs = Mapping[str, tuple[str, Sequence[int]]]  # of each tensor: its type in safetensors, its shape


class Kind(NamedTuple):
    """What one tensor may be."""

    dtypes: tuple[str, ...]
    dimensions: int


MEMORY = {
    "embeddings": Kind(("F16",), 3),
    "token_ids": Kind(("I32",), 2),
    "labels": Kind(("I64",), 1),
    "counts": Kind(("I64",), 1),
}
ROUTED = {"routes": Kind(("F16",), 2), "labels": MEMORY["labels"], "counts": MEMORY["counts"]}
# By format version; the first holds the tensors of memory as they are.
TENSORS = {
    1: MEMORY,
    2: MEMORY
    | {
        "embeddings": Kind(("F16", "I8"), 3),
        "scales": Kind(("F32",), 2),
        "token_ids": Kind(("U16", "I32"), 2),
        "padding": Kind(("I32",), 1),
    },
    ROUTED_VERSION: ROUTED,
}
PROMPTS = ("embeddings", "token_ids", "routes")


def specs_of(tensors: Mapping[str, NDArray[Any]]) -> Specs:
    """Types and shapes of tensors."""
    names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    return {name: (names.get(tensor.dtype, tensor.dtype.name), tensor.shape) for name, tensor in tensors.items()}


def bytes_of(specs: Specs) -> int:
    """Bytes of the tensors, without the header."""
    return sum(math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize for dtype, shape in specs.values())


def check_shapes(specs: Specs, kinds: Mapping[str, Kind], path: Path) -> None:
    """Check the names, types and shapes of tensors.

    Raises:
        BadInputError: one of them breaks a rule.
    """
    _check_names(specs, kinds, path)
    for name, (dtype, shape) in specs.items():
        wanted, dimensions = kinds[name]
        if dtype not in wanted:
            refuse(path, name, f"type {dtype}, not {' or '.join(wanted)}")
        if len(shape) != dimensions or not all(shape):
            refuse(path, name, f"shape {list(shape)}, not {dimensions} dimensions of at least 1")
    for name, (_, shape) in specs.items():
        if name not in ("padding", "routes") and shape[0] != specs["labels"][1][0]:
            refuse(path, name, f"{shape[0]} rows, where labels has {specs['labels'][1][0]}")
    _check_companions(specs, kinds, path)


def _check_names(specs: Specs, kinds: Mapping[str, Kind], path: Path) -> None:
    """Check which tensors are there."""
    for name in specs:
        if name not in kinds:
            refuse(path, name, "unknown tensor")
    possible = [name for name in PROMPTS if name in kinds]
    if sum(name in specs for name in possible) != 1:
        refuse(path, possible[0], f"exactly one of {' and '.join(possible)} must be there")
    for name in ("labels", "counts"):
        if name not in specs:
            refuse(path, name, "missing")


def _check_companions(specs: Specs, kinds: Mapping[str, Kind], path: Path) -> None:
    """Check what comes with eight bits and with short rows."""
    codes = specs.get("embeddings", ("", ()))
    if ("scales" in specs) != (codes[0] == "I8"):
        refuse(path, "scales", "they come with embeddings of type I8, and only with those")
    if "scales" in specs and list(specs["scales"][1]) != list(codes[1][:2]):
        refuse(path, "scales", f"shape {list(specs['scales'][1])}, where embeddings has {list(codes[1])}")
    if ("padding" in specs) != ("padding" in kinds and "token_ids" in specs):
        refuse(path, "padding", "it comes with token_ids, and only with those")
    if "padding" in specs and list(specs["padding"][1]) != [2]:
        refuse(path, "padding", f"shape {list(specs['padding'][1])}, not [2]")


def check_codes(tensors: Mapping[str, NDArray[Any]], max_bytes: int, path: Path) -> None:
    """Check, before the tensors of a file are unpacked, that they can be and that the result has room.

    Raises:
        BadInputError: one of them breaks a rule.
    """
    wanted = 0
    if "scales" in tensors:
        scales = tensors["scales"]
        good = np.isfinite(scales) & (scales >= 0) & (scales <= FLOAT16_MAX / STEPS)
        for row in np.flatnonzero(~good.all(axis=1))[:1]:
            refuse(path, "scales", f"row {row} holds one that is not finite, negative or too large for float16")
        for row in np.flatnonzero((tensors["embeddings"] < -STEPS).any(axis=(1, 2)))[:1]:
            refuse(path, "embeddings", f"row {row} holds a code below {-STEPS}")
        wanted = 2 * tensors["embeddings"].size
    if "padding" in tensors:
        (padding, length), width = tensors["padding"].tolist(), tensors["token_ids"].shape[1]
        if padding < 0 or not width <= length <= MAX_TOKENS:
            refuse(path, "padding", f"id {padding} up to length {length}, where rows have {width} of {MAX_TOKENS}")
        wanted = 4 * length * len(tensors["token_ids"])
    if wanted > max_bytes:
        hint = "send fewer rows, or raise the limit if the client is trusted"
        refuse(path, "rows", f"{wanted} bytes in memory, more than the limit of {max_bytes}", hint)


def check_rows(payload: Payload, path: Path) -> None:
    """Check everything about the tensors of memory but their types and shapes.

    Raises:
        BadInputError: one of them breaks a rule.
    """
    labels, counts, classes = payload.labels, payload.counts, len(payload.header.class_names)
    for row in np.flatnonzero((labels < 0) | (labels >= classes))[:1]:
        refuse(path, "labels", f"row {row} is {labels[row]}, and there are {classes} classes")
    for row in np.flatnonzero((counts < 1) | (counts > MAX_IMAGES))[:1]:
        refuse(path, "counts", f"row {row} is {counts[row]}, not 1 to {MAX_IMAGES}")
    if (images := sum(counts.tolist())) > MAX_IMAGES:
        refuse(path, "counts", f"{images} images in all, more than {MAX_IMAGES}")
    if payload.routes is not None:
        _check_routes(payload.routes, labels, path)
        return
    name = "token_ids" if payload.embeddings is None else "embeddings"
    if name == "token_ids" and payload.header.prompt_level == "learned":
        refuse(path, "prompt_level", "learned embeddings, and the rows are token ids")
    seen: dict[bytes, int] = {}
    # One row at a time, so that no second copy of the tensor is made.
    for row, (label, values) in enumerate(zip(labels.tolist(), payload.prompts(), strict=True)):
        if name == "embeddings" and not np.isfinite(values).all():
            refuse(path, name, f"row {row} holds NaN or infinity", "look for an overflow of float16 where it was made")
        if name == "token_ids" and values.min() < 0:
            refuse(path, name, f"row {row} holds a negative id")
        first = seen.setdefault(row_key(label, values), row)
        if first != row:
            refuse(path, name, f"rows {first} and {row} are the same prompt", "add their counts up in one row")


def _check_routes(routes_RH: NDArray[np.float16], labels: NDArray[np.int64], path: Path) -> None:
    """All rows have one routing, so that those of one class would be the same prompt."""
    if not np.isfinite(routes_RH).all():
        refuse(path, "routes", "NaN or infinity", "look for an overflow of float16 where it was made")
    if len(np.unique(labels)) < len(labels):
        refuse(path, "labels", "several rows of one class", "add their counts up in one row")
