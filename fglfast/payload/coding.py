"""Tensors of memory as a file holds them: eight bits, short rows of token ids.

Embeddings in eight bits have one scale for each token position (row-wise absolute-maximum quantization): the values of
position l of row n are scales[n,l] * codes[n,l,:]. CLIP's first position is dozens of times larger than the others, so
one scale for a whole row would leave those a few steps. Rows of token ids end with the tokenizer's padding; what all
rows share of it is told once.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fglfast.payload.rows import Carried, Payload

STEPS = 127  # codes on either side of zero
FLOAT16_MAX = 65504.0


def pack(payload: Payload) -> dict[str, NDArray[Any]]:
    """The tensors of a payload's file, by name; `unpack` gives back what was there, to the bit."""
    tensors = payload.tensors()
    if payload.header.format_version == 1:
        return tensors
    if payload.embeddings is not None and payload.int8:
        tensors["embeddings"], tensors["scales"] = to_eight_bits(payload.embeddings)
    if payload.token_ids is not None:
        tensors["token_ids"], tensors["padding"] = shorten(payload.token_ids)
    return tensors


def unpack(tensors: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The tensors of memory; those of the file have been checked."""
    found = dict(tensors)
    if "scales" in found:
        found["embeddings"] = from_eight_bits(found["embeddings"], found.pop("scales"))
    if "padding" in found:
        found["token_ids"] = lengthen(found["token_ids"], found.pop("padding"))
    return found


def tensor_bytes(payload: Payload) -> dict[Carried, int]:
    """Bytes of the tensors in each form that these prompts could travel in; a file has a header beside them."""
    sizes: dict[Carried, int] = {}
    if payload.routes is not None:
        sizes["routes"] = payload.routes.nbytes
    elif payload.embeddings is not None:
        rows, length, width = payload.embeddings.shape
        sizes = {"embeddings": 2 * rows * length * width, "int8": rows * length * (width + 4)}
    if payload.token_ids is not None:
        sizes["tokens"] = sum(tensor.nbytes for tensor in shorten(payload.token_ids))
    return {form: size + payload.labels.nbytes + payload.counts.nbytes for form, size in sizes.items()}


def eight_bits(payload: Payload) -> Payload:
    """The payload of embeddings that says in memory what its file will say in eight bits."""
    assert payload.embeddings is not None
    return replace(payload, embeddings=from_eight_bits(*to_eight_bits(payload.embeddings)), int8=True)


def to_eight_bits(embeddings_NLD: NDArray[np.float16]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes [N,L,D] of -127 to 127, and scales [N,L]; what `from_eight_bits` made comes back unchanged."""
    codes_NLD = np.empty(embeddings_NLD.shape, dtype=np.int8)
    scales_NL = np.empty(embeddings_NLD.shape[:2], dtype=np.float32)
    for row, half_LD in enumerate(embeddings_NLD):  # one at a time: no second copy in float32
        values_LD = half_LD.astype(np.float32)
        scales_NL[row] = np.abs(values_LD).max(axis=-1) / STEPS
        codes_NLD[row] = np.rint(values_LD / np.where(scales_NL[row] > 0, scales_NL[row], 1)[:, None])
    return codes_NLD, scales_NL


def from_eight_bits(codes_NLD: NDArray[np.int8], scales_NL: NDArray[np.float32]) -> NDArray[np.float16]:
    """Embeddings [N,L,D]."""
    embeddings_NLD = np.empty(codes_NLD.shape, dtype=np.float16)
    for row, (codes_LD, scales_L) in enumerate(zip(codes_NLD, scales_NL, strict=True)):
        with np.errstate(over="ignore"):  # infinity is refused where all rows are checked
            embeddings_NLD[row] = codes_LD * scales_L[:, None]
    return embeddings_NLD


def shorten(token_ids_NT: NDArray[np.int32]) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Rows without the padding that all share, in 16 bits where the ids fit; and [padding id, full length]."""
    padding = token_ids_NT[0, -1]
    needed = np.flatnonzero((token_ids_NT != padding).any(axis=0))
    short_NS = token_ids_NT[:, : max(1, needed[-1] + 1 if len(needed) else 0)]
    fits = token_ids_NT.max() <= np.iinfo(np.uint16).max
    return short_NS.astype(np.uint16) if fits else short_NS, np.array([padding, token_ids_NT.shape[1]], dtype=np.int32)


def lengthen(short_NS: NDArray[Any], padding: NDArray[np.int32]) -> NDArray[np.int32]:
    """Token ids [N,T]."""
    token_ids_NT = np.full((len(short_NS), int(padding[1])), padding[0], dtype=np.int32)
    token_ids_NT[:, : short_NS.shape[1]] = short_NS
    return token_ids_NT
