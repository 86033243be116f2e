"""What travels: text embeddings and labels in one safetensors file. Knows nothing of models or clients.

A payload comes from a stranger, so `load_payload` proves the header before it reads a tensor, and the
tensors before it returns them. `save_payload` holds its own file to the same rules.
"""

import hashlib
import json
import math
import stat
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fglfast.config import Settings, first_problem
from fglfast.errors import BadInputError
from fglfast.files import write_atomic

FORMAT_VERSION = 1
METADATA_KEY = "fglfast"
MAX_HEADER_BYTES = 8 << 20
MAX_CLASSES, MAX_CLASS_NAME, MAX_CLIENT_NAME = 100_000, 200, 128
MAX_IMAGES = 1 << 48  # of one payload: the images of 32,768 clients still add up within int64

ANEW = "make the payload anew with fglfast embed"
# Each tensor: its type in safetensors, its bytes an element, its dimensions.
TENSORS = {"embeddings": ("F16", 2, 3), "token_ids": ("I32", 4, 2), "labels": ("I64", 8, 1), "counts": ("I64", 8, 1)}
DTYPES = {"F16": np.float16, "I32": np.int32, "I64": np.int64}
JOINERS = "\u200c\u200d"  # invisible, yet part of ordinary spelling in several scripts


def _printable(text: str) -> str:
    if not text.strip():
        raise ValueError("empty")
    if not text.isprintable() and any(
        unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and letter not in JOINERS for letter in text
    ):
        raise ValueError("control characters")
    return text


def _file_name(text: str) -> str:
    if "/" in text or "\\" in text or text in {".", ".."}:
        raise ValueError("a path, not a name")
    return text


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise ValueError(f"{twice!r} is there twice")
    return names


ClassName = Annotated[str, Field(max_length=MAX_CLASS_NAME), AfterValidator(_printable)]
ClientName = Annotated[str, Field(max_length=MAX_CLIENT_NAME), AfterValidator(_printable), AfterValidator(_file_name)]
ClassNames = Annotated[tuple[ClassName, ...], Field(min_length=1, max_length=MAX_CLASSES), AfterValidator(_distinct)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Privacy(Settings):
    """What a privacy mechanism did to the embeddings, as the client states it.

    Attributes:
        mechanism: its name, such as "gaussian".
        epsilon: privacy loss.
        delta: probability that the loss is larger.
        clip: L2 norm that embeddings were clipped to.
        noise: standard deviation of the noise that was added.
    """

    mechanism: ClassName
    epsilon: NotNegative
    delta: Annotated[float, Field(ge=0, le=1)]
    clip: NotNegative
    noise: NotNegative


class PayloadHeader(Settings):
    """The metadata of a payload.

    Attributes:
        format_version: `FORMAT_VERSION`.
        client: the client's name; fit to be a file name.
        class_names: all classes of the federation, in the order of the labels.
        prompt_level: one prompt a class, or one a caption.
        text_encoder: sha256 of the text encoder's weights and tokenizer, in hex.
        privacy: what was done to the embeddings; None is nothing.
    """

    format_version: int = FORMAT_VERSION
    client: ClientName
    class_names: ClassNames
    prompt_level: Literal["class", "instance"]
    text_encoder: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    privacy: Privacy | None = None


class _Entry(Settings):
    """One tensor in the header of a safetensors file."""

    dtype: str
    shape: list[Annotated[int, Field(ge=0)]]
    data_offsets: Annotated[list[int], Field(min_length=2, max_length=2)]


_ENTRIES = TypeAdapter(dict[str, _Entry])


@dataclass(frozen=True)
class Payload:
    """What one client sends; N rows, each a unique prompt of a class.

    Attributes:
        header: who sends it, and what the rows mean.
        embeddings: float16 text embeddings [N,L,D], or None.
        token_ids: int32 token ids [N,L], or None; exactly one of the two is there.
        labels: class of each row [N], indices into `header.class_names`.
        counts: private images behind each row [N], at least 1.
    """

    header: PayloadHeader
    embeddings: NDArray[np.float16] | None
    token_ids: NDArray[np.int32] | None
    labels: NDArray[np.int64]
    counts: NDArray[np.int64]

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The tensors that are there, by name."""
        named = {name: getattr(self, name) for name in TENSORS}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def digest(self) -> str:
        """The payload hash: sha256 over the canonical header and the tensors."""
        digest = hashlib.sha256(f"{_canonical(self.header)}\0".encode())
        for name, tensor in self.tensors().items():
            digest.update(f"{name} {tensor.dtype.name} {tensor.shape}\0".encode())
            digest.update(_little_endian(tensor).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Limits:
    """The most that a payload may bring: bytes of the file, rows."""

    max_bytes: int = 1 << 30
    max_rows: int = 1_000_000


def save_payload(payload: Payload, path: Path) -> int:
    """Write a payload: under a temporary name, fsynced, then renamed. Equal payloads, equal bytes.

    Returns:
        Bytes written.

    Raises:
        BadInputError: the payload breaks a rule that `load_payload` enforces, or the file cannot be written.
    """
    text = _canonical(payload.header)
    _check_tensors(_parse_header(text, path), payload.tensors(), path)
    tensors = {name: _little_endian(tensor) for name, tensor in payload.tensors().items()}
    content = save(tensors, metadata={METADATA_KEY: text})
    _check_header_size(int.from_bytes(content[:8], "little"), len(content), path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    except OSError as error:
        hint = "check that the folder exists, may be written and has room"
        raise BadInputError(f"{path}: cannot be written ({error.strerror})", hint) from error
    return len(content)


def load_payload(path: Path, limits: Limits | None = None, text_encoder: str | None = None) -> Payload:
    """Read and check a payload. No tensor is read before the whole header has been checked.

    Args:
        path: a `.safetensors` file.
        limits: the most it may bring; None is `Limits()`.
        text_encoder: the fingerprint it must have; None accepts any.

    Raises:
        BadInputError: the file cannot be read or breaks a rule; the message names the file and the field.
    """
    limits = limits or Limits()
    try:
        status = path.stat()  # before opening: a named pipe would block
        if not stat.S_ISREG(status.st_mode):
            _refuse(path, "file", "not a regular file", "give a .safetensors payload")
        if status.st_size > limits.max_bytes:
            hint = "send fewer rows, or raise the limit if the client is trusted"
            _refuse(path, "file", f"{status.st_size} bytes, more than the limit of {limits.max_bytes}", hint)
        with path.open("rb") as stream:
            header = _read_header(stream, status.st_size, limits, text_encoder, path)
            stream.seek(0)
            tensors = load(stream.read(status.st_size))
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror})", "check the path") from error
    except (SafetensorError, ValueError) as error:
        raise BadInputError(f"{path}: tensors: {error}", ANEW) from error
    _check_tensors(header, tensors, path)
    return Payload(header, tensors.get("embeddings"), tensors.get("token_ids"), tensors["labels"], tensors["counts"])


def _refuse(path: Path, field: str, problem: str, hint: str = ANEW) -> NoReturn:
    """Refuse a file; what it says itself is shown without its control characters."""
    text = "".join(letter if letter.isprintable() else "?" for letter in f"{field}: {problem}")
    raise BadInputError(f"{path}: {text[:400]}", hint)


def _read_header(stream: BinaryIO, size: int, limits: Limits, text_encoder: str | None, path: Path) -> PayloadHeader:
    """Check everything that can be known without the tensors."""
    length = int.from_bytes(stream.read(8), "little")
    _check_header_size(length, size, path)
    raw = _strict_json(stream.read(length), "header", path)
    metadata = raw.pop("__metadata__", None)
    if not isinstance(metadata, dict) or set(metadata) != {METADATA_KEY} or not isinstance(metadata[METADATA_KEY], str):
        _refuse(path, "metadata", f"must be the one text {METADATA_KEY!r}", "this is not a payload of fglfast embed")
    header = _parse_header(metadata[METADATA_KEY], path)
    if text_encoder not in (None, header.text_encoder):
        hint = "embed with the model folder that the engine was built from"
        _refuse(path, "text_encoder", f"made with {header.text_encoder[:12]}, not {str(text_encoder)[:12]}", hint)
    try:
        entries = _ENTRIES.validate_python(raw, strict=True)
    except ValidationError as error:
        _refuse(path, "tensors", first_problem(error))
    _check_shapes({name: (entry.dtype, entry.shape) for name, entry in entries.items()}, path)
    if entries["labels"].shape[0] > limits.max_rows:
        hint = "send fewer rows, or raise the limit if the client is trusted"
        _refuse(path, "labels", f"{entries['labels'].shape[0]} rows, more than the limit of {limits.max_rows}", hint)
    body = sum(math.prod(entry.shape) * TENSORS[name][1] for name, entry in entries.items())
    if 8 + length + body != size:
        _refuse(
            path, "tensors", f"the header announces {body} bytes, the file holds {size - 8 - length}", "send it again"
        )
    return header


def _check_header_size(length: int, size: int, path: Path) -> None:
    if length > MAX_HEADER_BYTES:
        _refuse(
            path, "header", f"{length} bytes, more than {MAX_HEADER_BYTES}", "this is not a payload of fglfast embed"
        )
    if size < 8 + length:
        _refuse(path, "header", "the file is truncated", "send it again")


def _strict_json(text: bytes | str, field: str, path: Path) -> dict[str, Any]:
    """Parse a JSON object in which no key is there twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key is there twice")
        return dict(pairs)

    try:
        value = json.loads(text.decode() if isinstance(text, bytes) else text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        _refuse(path, field, f"not strict JSON ({error})")
    if not isinstance(value, dict):
        _refuse(path, field, "not a JSON object")
    return value


def _parse_header(text: str, path: Path) -> PayloadHeader:
    version = _strict_json(text, "metadata", path).get("format_version")
    if version != FORMAT_VERSION or not isinstance(version, int) or isinstance(version, bool):
        hint = "client and server must run releases of fglfast that share a payload format"
        _refuse(path, "format_version", f"{version!r}, and this release reads {FORMAT_VERSION}", hint)
    try:
        return PayloadHeader.model_validate_json(text, strict=True)
    except ValidationError as error:
        field, _, problem = first_problem(error).partition(": ")
        _refuse(path, field, problem)


def _check_shapes(specs: Mapping[str, tuple[str, Sequence[int]]], path: Path) -> None:
    """Check the names, types and shapes of tensors given as name -> (type, shape)."""
    for name in specs:
        if name not in TENSORS:
            _refuse(path, name, "unknown tensor")
    if ("embeddings" in specs) == ("token_ids" in specs):
        _refuse(path, "embeddings", "exactly one of embeddings and token_ids must be there")
    for name in ("labels", "counts"):
        if name not in specs:
            _refuse(path, name, "missing")
    rows = specs["labels"][1][0] if specs["labels"][1] else 0
    for name, (dtype, shape) in specs.items():
        wanted, _, dimensions = TENSORS[name]
        if dtype != wanted:
            _refuse(path, name, f"type {dtype}, not {wanted}")
        if len(shape) != dimensions or not all(shape):
            _refuse(path, name, f"shape {list(shape)}, not {dimensions} dimensions of at least 1")
        if shape[0] != rows:
            _refuse(path, name, f"{shape[0]} rows, where labels has {rows}")


def _check_tensors(header: PayloadHeader, tensors: dict[str, NDArray[Any]], path: Path) -> None:
    """Check everything about the tensors, in memory."""
    names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    specs = {name: (names.get(tensor.dtype, tensor.dtype.name), tensor.shape) for name, tensor in tensors.items()}
    _check_shapes(specs, path)
    labels, counts = tensors["labels"], tensors["counts"]
    for row in np.flatnonzero((labels < 0) | (labels >= len(header.class_names)))[:1]:
        _refuse(path, "labels", f"row {row} is {labels[row]}, and there are {len(header.class_names)} classes")
    for row in np.flatnonzero((counts < 1) | (counts > MAX_IMAGES))[:1]:
        _refuse(path, "counts", f"row {row} is {counts[row]}, not 1 to {MAX_IMAGES}")
    if _total(counts) > MAX_IMAGES:
        _refuse(path, "counts", f"{_total(counts)} images in all, more than {MAX_IMAGES}")
    name = "embeddings" if "embeddings" in tensors else "token_ids"
    _check_rows(name, tensors[name], labels, path)


def _check_rows(name: str, tensor: NDArray[Any], labels: NDArray[np.int64], path: Path) -> None:
    """Check one row at a time, so that no second copy of the tensor is made."""
    seen: dict[bytes, int] = {}
    for row, (label, values) in enumerate(zip(labels.tolist(), tensor, strict=True)):
        if name == "embeddings" and not np.isfinite(values).all():
            _refuse(path, name, f"row {row} holds NaN or infinity", "look for an overflow of float16 where it was made")
        if name == "token_ids" and values.min() < 0:
            _refuse(path, name, f"row {row} holds a negative id")
        zero = values.dtype.type(0)  # added, it makes -0.0 equal to 0.0
        first = seen.setdefault(hashlib.sha256(b"%d " % label + (values + zero).tobytes()).digest(), row)
        if first != row:
            _refuse(path, name, f"rows {first} and {row} are the same prompt", "add their counts up in one row")


def _total(counts: NDArray[np.int64]) -> int:
    return sum(counts.tolist())


def _canonical(header: PayloadHeader) -> str:
    return json.dumps(header.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _little_endian(tensor: NDArray[Any]) -> NDArray[Any]:
    order = tensor if sys.byteorder == "little" else tensor.astype(tensor.dtype.newbyteorder("<"))
    return np.ascontiguousarray(order)
