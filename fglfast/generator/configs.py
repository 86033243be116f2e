"""Checks of a stranger's model folder before any network is built: its links, its configs, the size of its weights.

Loads no network, and knows no architecture.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fglfast.base.config import Settings, checked_json
from fglfast.base.errors import BadInputError
from fglfast.base.folders import leads_out
from fglfast.base.untrusted import json_object, read_bytes
from fglfast.generator.weights import HINT, MOST_TENSORS, is_index, shards, weight_files

MOST_CONFIG, MOST_HEADER = 16 << 20, 8 << 20  # bytes of a config, of the header of a safetensors file
MOST_LABELS = 100_000
LARGEST = 1 << 20  # number of a config: Stable Diffusion's is a vocabulary of 49,408
MOST_OWN_BYTES = 64 << 10  # of the folder's files that are ours
# Keys by which a config asks for code or kernels from elsewhere.
CODE = ("auto_map", "attn_implementation", "_attn_implementation", "quantization_config", "custom_pipelines")
ADAPTER = "adapter_config.json"  # transformers would fetch the model that it names
S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Announced:
    """What a folder's weights are at most: how many tensors, of how many elements together."""

    tensors: int
    elements: int


def check_folder(folder: Path) -> None:
    """Refuse a model folder that leads out of itself or asks for code from elsewhere.

    The hub's cache keeps a snapshot as links into the files of its own repository: those are inside.

    Raises:
        BadInputError: a link leads out, an index of weights names a path, or a config asks for code.
    """
    home = folder.parents[1] if folder.absolute().parent.name == "snapshots" else folder
    for path in folder.rglob("*"):
        if leads_out(path, home):
            raise BadInputError(f"{path}: a link that leads out of the model's folder", HINT)
        if path.name == ADAPTER:
            raise BadInputError(f"{path}: adapters inside a model folder are not read", HINT)
        if is_index(path):
            shards(path)
        elif path.name == "config.json":
            read_config(path)


def read_config(path: Path) -> dict[str, Any]:
    """Read a config: JSON with infinities, as diffusers writes it; numbers that would only do harm are refused.

    Raises:
        BadInputError: it cannot be read, has a number beyond `LARGEST`, or asks for code from elsewhere.
    """
    config = _object(path, MOST_CONFIG, MOST_LABELS)
    check_config(config, str(path))
    return config


def check_config(config: dict[str, Any], what: str) -> None:
    """Refuse a config that has a number beyond `LARGEST`, or asks for code from elsewhere.

    Raises:
        BadInputError: naming `what`.
    """
    for key in CODE:
        if config.get(key) is not None:
            raise BadInputError(f"{what}: {key} asks for code of its own, which is never run", HINT)
    for number in _numbers(config):
        if math.isfinite(number) and abs(number) > LARGEST:
            raise BadInputError(f"{what}: holds a number beyond {LARGEST}", HINT)


def announced(folder: Path) -> Announced:
    """What the safetensors files that are read of a folder hold at most.

    Raises:
        BadInputError: there is none, or a header cannot be read.
    """
    files = weight_files(folder)
    if not files:
        raise BadInputError(f"{folder}: no safetensors weights", HINT)
    return Announced(sum(len(read_header(path)) for path in files), sum(path.stat().st_size for path in files))


def read_header(path: Path) -> dict[str, Any]:
    """What a safetensors file says of its tensors, by name, without reading them.

    Raises:
        BadInputError: it is no such file, or its header is larger than any that is known.
    """
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > MOST_HEADER:
                raise ValueError(f"a header of {length} bytes")  # noqa: TRY301
            return json_object(stream.read(length), MOST_TENSORS)
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path}: not a safetensors file ({error})", HINT) from error


def _object(path: Path, most: int, most_keys: int) -> dict[str, Any]:
    try:
        return json_object(read_bytes(path, most), most_keys, strict=False)
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path}: not a readable config ({error})", HINT) from error


def _numbers(value: Any) -> Iterator[float]:
    """All numbers in a value, however deep."""
    open_ = [value]
    while open_:
        value = open_.pop()
        if isinstance(value, dict):
            open_ += value.values()
        elif isinstance(value, list):
            open_ += value
        elif isinstance(value, int | float):
            yield value


def read_optional(path: Path, kind: type[S]) -> S:
    """What a file of ours in a model folder says; the defaults where there is none.

    Raises:
        BadInputError: it cannot be used; the message names the key.
    """
    if not path.exists():
        return kind()
    try:
        return checked_json(kind, read_bytes(path, MOST_OWN_BYTES))
    except ValueError as error:
        raise BadInputError(f"{path}: {error}", "correct the key that it names") from error
