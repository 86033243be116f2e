"""A payload from a stranger's file: bounds first, then the header, then the tensors. Writes nothing."""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load

from fglfast.base.config import Settings, first_problem
from fglfast.base.errors import BadInputError
from fglfast.payload.allow import AllowList
from fglfast.payload.coding import unpack
from fglfast.payload.header import ANEW, METADATA_KEY, PayloadHeader, parse_header, refuse, strict_json
from fglfast.payload.proof import TENSORS, bytes_of, check_codes, check_rows, check_shapes, specs_of
from fglfast.payload.rows import Payload
from fglfast.payload.signature import SIGNATURE_KEY, Signature, parse_signature, verify

MAX_HEADER_BYTES = 8 << 20
FEWER = "send fewer rows, or raise the limit if the client is trusted"


class _Entry(Settings):
    """One tensor in the header of a safetensors file."""

    dtype: str
    shape: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=8)]
    data_offsets: Annotated[list[int], Field(min_length=2, max_length=2)]


_ENTRIES = TypeAdapter(dict[str, _Entry])


@dataclass(frozen=True)
class Limits:
    """The most that a payload may bring: bytes of the file and of its rows in memory, rows."""

    max_bytes: int = 1 << 30
    max_rows: int = 1_000_000


def load_payload(
    path: Path | str, limits: Limits | None = None, text_encoder: str | None = None, allowed: AllowList | None = None
) -> Payload:
    """Read and check a payload of any version; see `load_signed`."""
    return load_signed(Path(path), limits, text_encoder, allowed)[0]


def load_signed(
    path: Path, limits: Limits | None = None, text_encoder: str | None = None, allowed: AllowList | None = None
) -> tuple[Payload, Signature | None]:
    """Read and check a payload, and read its signature.

    No tensor is parsed before the whole header has been checked and, with an allow-list, the signature proved.

    Args:
        path: a `.safetensors` file.
        limits: the most it may bring; None is `Limits()`.
        text_encoder: the fingerprint it must have; None accepts any.
        allowed: who may send; None takes payloads of anyone, and a signature is then not proved.

    Raises:
        BadInputError: the file cannot be read or breaks a rule; the message names the file and the field.
    """
    limits = limits or Limits()
    try:
        with _opened(path, limits) as (stream, size):
            header, signature = _read_header(stream, size, limits, text_encoder, path)
            proof = allowed.admit(header, signature, path) if allowed else None
            stream.seek(0)
            content = stream.read(size)
        if proof:
            verify(content, proof, path)
        packed = load(content)
    except (SafetensorError, ValueError) as error:
        raise BadInputError(f"{path}: tensors: {error}", ANEW) from error
    check_shapes(specs_of(packed), TENSORS[header.format_version], path)
    check_codes(packed, limits.max_bytes, path)
    tensors = unpack(packed)
    payload = Payload(
        header,
        tensors.get("embeddings"),
        tensors.get("token_ids"),
        tensors["labels"],
        tensors["counts"],
        int8="scales" in packed,
        routes=tensors.get("routes"),
    )
    check_rows(payload, path)
    return payload, signature


def client_of(path: Path) -> str:
    """The client that a payload's header names; nothing else of the file is checked, and no tensor read.

    Raises:
        BadInputError: the header cannot be read, or names none.
    """
    with _opened(path, Limits()) as (stream, size):
        texts = _read_json(stream, size, path).get("__metadata__")
    text = texts.get(METADATA_KEY) if isinstance(texts, dict) else None
    client = strict_json(text, "metadata", path).get("client") if isinstance(text, str) else None
    if not isinstance(client, str):
        refuse(path, "client", "no client is named")
    return client


@contextmanager
def _opened(path: Path, limits: Limits) -> Iterator[tuple[BinaryIO, int]]:
    """A file that may be a payload, and its bytes."""
    try:
        status = path.stat()  # before opening: a named pipe would block
        if not stat.S_ISREG(status.st_mode):
            refuse(path, "file", "not a regular file", "give a .safetensors payload")
        if status.st_size > limits.max_bytes:
            refuse(path, "file", f"{status.st_size} bytes, more than the limit of {limits.max_bytes}", FEWER)
        with path.open("rb") as stream:
            yield stream, status.st_size
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror})", "check the path") from error


def _read_json(stream: BinaryIO, size: int, path: Path) -> dict[str, Any]:
    """The header of a safetensors file."""
    length = int.from_bytes(stream.read(8), "little")
    check_header_size(length, size, path)
    return strict_json(stream.read(length), "header", path)


def _read_header(
    stream: BinaryIO, size: int, limits: Limits, text_encoder: str | None, path: Path
) -> tuple[PayloadHeader, Signature | None]:
    """Check everything that can be known without the tensors."""
    raw = _read_json(stream, size, path)
    begin = stream.tell()  # of the tensors
    header, signature = _read_metadata(raw.pop("__metadata__", None), path)
    if text_encoder not in (None, header.text_encoder):
        hint = "embed with the model folder that the engine was built from"
        refuse(path, "text_encoder", f"made with {header.text_encoder[:12]}, not {str(text_encoder)[:12]}", hint)
    try:
        entries = _ENTRIES.validate_python(raw, strict=True)
    except ValidationError as error:
        refuse(path, "tensors", first_problem(error))
    specs = {name: (entry.dtype, entry.shape) for name, entry in entries.items()}
    check_shapes(specs, TENSORS[header.format_version], path)
    if entries["labels"].shape[0] > limits.max_rows:
        refuse(path, "labels", f"{entries['labels'].shape[0]} rows, more than the limit of {limits.max_rows}", FEWER)
    if begin + bytes_of(specs) != size:
        problem = f"the header announces {bytes_of(specs)} bytes, the file holds {size - begin}"
        refuse(path, "tensors", problem, "send it again")
    return header, signature


def _read_metadata(metadata: Any, path: Path) -> tuple[PayloadHeader, Signature | None]:
    texts = metadata if isinstance(metadata, dict) else {}
    keys = {METADATA_KEY, SIGNATURE_KEY} if SIGNATURE_KEY in texts else {METADATA_KEY}
    if set(texts) != keys or not all(isinstance(text, str) for text in texts.values()):
        problem = f"must be the text {METADATA_KEY!r}, and {SIGNATURE_KEY!r} if it is signed"
        refuse(path, "metadata", problem, "this is not a payload of fglfast embed")
    header = parse_header(texts[METADATA_KEY], path)
    return header, parse_signature(texts[SIGNATURE_KEY], path) if SIGNATURE_KEY in texts else None


def check_header_size(length: int, size: int, path: Path) -> None:
    """Check the length of the header against the most there may be, and the file's bytes.

    Raises:
        BadInputError: it is too long.
    """
    if length > MAX_HEADER_BYTES:
        refuse(
            path, "header", f"{length} bytes, more than {MAX_HEADER_BYTES}", "this is not a payload of fglfast embed"
        )
    if size < 8 + length:
        refuse(path, "header", "the file is truncated", "send it again")
