"""CLIP's text encoder in NumPy: who sends embeddings needs neither PyTorch nor transformers, nor their seconds to load.

The forward pass of Radford et al. (arXiv 2103.00020) as transformers' `CLIPTextModel` makes it, one prompt at a time in
float32. Folder and weights may be a stranger's.

Shape letters: T tokens, D width, H heads, K channels a head, F inner width, P projection's width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, ValidationError
from safetensors import safe_open

from fglfast.base.config import Settings, first_problem
from fglfast.base.errors import BadInputError
from fglfast.base.untrusted import loading
from fglfast.generator.configs import read_config, read_header
from fglfast.generator.weights import HINT, weight_files

Floats = NDArray[np.float32]
# How safetensors stores numbers; NumPy has no bfloat16, which is the upper half of a float32.
STORED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class TextConfig(Settings):
    """What `config.json` says of the network; other keys and defaults are transformers'."""

    model_config = ConfigDict(extra="ignore")

    vocab_size: int = Field(49408, ge=1)
    hidden_size: int = Field(512, ge=1)
    intermediate_size: int = Field(2048, ge=1)
    projection_dim: int = Field(512, ge=1)
    num_hidden_layers: int = Field(12, ge=1)
    num_attention_heads: int = Field(8, ge=1)
    max_position_embeddings: int = Field(77, ge=1)
    layer_norm_eps: float = Field(1e-5, gt=0)
    hidden_act: str = "quick_gelu"
    eos_token_id: int = 49407


@dataclass(frozen=True)
class Read:
    """What the encoder makes of one prompt.

    Attributes:
        last: [T,D], normalised, as Stable Diffusion 1.x and 2.x take it.
        before: [T,D], of the last layer but one, as XL takes it.
        pooled: [P], the end of the prompt, projected; None of an encoder without projection.
    """

    last: Floats
    before: Floats
    pooled: Floats | None


class ClipText:
    """The text encoder in a folder of transformers' layout.

    Raises:
        BadInputError: config and weights are not those of one text encoder.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self.config = TextConfig.model_validate(read_config(folder / "config.json"))
        except ValidationError as error:
            raise BadInputError(f"{folder / 'config.json'}: {first_problem(error)}", HINT) from error
        if self.config.hidden_size % self.config.num_attention_heads:
            raise BadInputError(f"{folder}: {self.config.num_attention_heads} heads do not divide its width", HINT)
        if self.config.hidden_act not in ACTIVATIONS:
            problem = f"{folder}: hidden_act {self.config.hidden_act!r} is not known here"
            raise BadInputError(problem, f"known are {', '.join(ACTIVATIONS)}")
        files = weight_files(folder)
        if not files:
            raise BadInputError(f"{folder}: no safetensors weights", HINT)
        self.folder = folder
        self.weights = {name: weight for path in files for name, weight in _read(path)}
        self.layers = [self._layer(number) for number in range(self.config.num_hidden_layers)]
        self.tokens = self._take("embeddings.token_embedding.weight", self.config.vocab_size, self.config.hidden_size)
        positions = self.config.max_position_embeddings, self.config.hidden_size
        self.positions = self._take("embeddings.position_embedding.weight", *positions)
        self.normalise = self._norm("final_layer_norm")
        self.projection: Floats | None = None
        if "text_projection.weight" in self.weights:
            self.projection = self._take("text_projection.weight", self.config.projection_dim, self.config.hidden_size)

    def __call__(self, ids_T: NDArray[np.int32]) -> Read:
        """One prompt's token ids [T].

        Raises:
            BadInputError: an id is not among the encoder's words.
        """
        if ids_T.max() >= len(self.tokens):
            problem = f"the tokenizer has ids up to {ids_T.max()}, the encoder {len(self.tokens)} words"
            raise BadInputError(f"{self.folder}: {problem}", HINT)
        hidden_TD = before_TD = self.tokens[ids_T] + self.positions[: len(ids_T)]
        for layer in self.layers:
            before_TD, hidden_TD = hidden_TD, layer(hidden_TD)
        last_TD = self.normalise(hidden_TD)
        if self.projection is None:
            return Read(last_TD, before_TD, None)
        return Read(last_TD, before_TD, self.projection @ last_TD[self._end(ids_T)])

    def _end(self, ids_T: NDArray[np.int32]) -> int:
        """Where the prompt ends: the largest id in models from before the end had a number of its own."""
        if self.config.eos_token_id == 2:
            return int(ids_T.argmax())
        return int((ids_T == self.config.eos_token_id).argmax())

    def _take(self, name: str, *shape: int) -> Floats:
        found = self.weights.get(name)
        if found is None or found.shape != shape:
            there = "is missing" if found is None else f"has shape {list(found.shape)}, not {list(shape)}"
            raise BadInputError(f"{self.folder}: weight {name} {there}", HINT)
        return found

    def _norm(self, name: str) -> Callable[[Floats], Floats]:
        scale_D, shift_D = (self._take(f"{name}.{kind}", self.config.hidden_size) for kind in ("weight", "bias"))
        return partial(_layer_norm, scale_D=scale_D, shift_D=shift_D, epsilon=np.float32(self.config.layer_norm_eps))

    def _linear(self, name: str, inputs: int, outputs: int) -> Callable[[Floats], Floats]:
        weight_OI, bias_O = self._take(f"{name}.weight", outputs, inputs), self._take(f"{name}.bias", outputs)
        return lambda rows: rows @ weight_OI.T + bias_O

    def _layer(self, number: int) -> Callable[[Floats], Floats]:
        name, width, inner = f"encoder.layers.{number}", self.config.hidden_size, self.config.intermediate_size
        first, second = (self._norm(f"{name}.layer_norm{which}") for which in (1, 2))
        query, key, value, out = (
            self._linear(f"{name}.self_attn.{part}_proj", width, width) for part in ("q", "k", "v", "out")
        )
        widen, narrow = self._linear(f"{name}.mlp.fc1", width, inner), self._linear(f"{name}.mlp.fc2", inner, width)
        heads, activation = self.config.num_attention_heads, ACTIVATIONS[self.config.hidden_act]

        def run(hidden_TD: Floats) -> Floats:
            rows_TD = first(hidden_TD)
            hidden_TD = hidden_TD + out(_attention(query(rows_TD), key(rows_TD), value(rows_TD), heads))
            return hidden_TD + narrow(activation(widen(second(hidden_TD))))

        return run


def _attention(query_TD: Floats, key_TD: Floats, value_TD: Floats, heads: int) -> Floats:
    """Causal attention [T,D]."""
    query_HTK, key_HTK, value_HTK = (
        rows.reshape(len(rows), heads, -1).transpose(1, 0, 2) for rows in (query_TD, key_TD, value_TD)
    )
    scores_HTT = query_HTK @ key_HTK.transpose(0, 2, 1) * np.float32(query_HTK.shape[-1] ** -0.5)
    scores_HTT += np.triu(np.full(scores_HTT.shape[1:], -np.inf, np.float32), 1)
    scores_HTT = np.exp(scores_HTT - scores_HTT.max(axis=-1, keepdims=True))
    scores_HTT /= scores_HTT.sum(axis=-1, keepdims=True)
    attended_TD: Floats = (scores_HTT @ value_HTK).transpose(1, 0, 2).reshape(query_TD.shape)
    return attended_TD


def _layer_norm(rows_TD: Floats, scale_D: Floats, shift_D: Floats, epsilon: np.float32) -> Floats:
    centred_TD = rows_TD - rows_TD.mean(axis=-1, keepdims=True)
    variance_T1 = np.square(centred_TD).mean(axis=-1, keepdims=True)
    normalised_TD: Floats = centred_TD / np.sqrt(variance_T1 + epsilon) * scale_D + shift_D
    return normalised_TD


def _quick_gelu(rows: Floats) -> Floats:
    with np.errstate(over="ignore"):  # then the share is 0
        share: Floats = 1 / (1 + np.exp(np.float32(-1.702) * rows))
    return rows * share


def _gelu(rows: Floats) -> Floats:
    return rows * np.float32(0.5) * (1 + erf(rows * np.float32(0.5**0.5)))


def erf(values: Floats) -> Floats:
    """The error function by the rational approximation of Eigen's `generic_fast_erf_float`, within 4e-7."""
    inside = np.clip(values, np.float32(-4), np.float32(4))
    square = inside * inside
    return inside * _polynomial(OVER, square) / _polynomial(UNDER, square)


def _polynomial(coefficients: tuple[float, ...], values: Floats) -> Floats:
    """Horner's scheme; the highest power comes first."""
    total = np.zeros_like(values)
    for coefficient in coefficients:
        total = total * values + np.float32(coefficient)
    return total


OVER = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
UNDER = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)
ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {"quick_gelu": _quick_gelu, "gelu": _gelu}


def _read(path: Path) -> Iterator[tuple[str, Floats]]:
    """The floating-point tensors of a file by name, in float32; names without the prefix that some have."""
    header: dict[str, Any] = read_header(path)
    with loading(path):
        with safe_open(path, framework="numpy"):  # checks types, shapes and places against the file
            pass
        with path.open("rb") as stream:
            start = 8 + int.from_bytes(stream.read(8), "little")
        for name, about in header.items():
            kind = about.get("dtype")
            if kind not in STORED:
                continue
            first, last = about["data_offsets"]
            stored = np.fromfile(
                path, STORED[kind], (last - first) // np.dtype(STORED[kind]).itemsize, "", start + first
            )
            if kind == "BF16":
                stored = (stored.astype(np.uint32) << 16).view(np.float32)
            yield name.removeprefix("text_model."), stored.reshape(about["shape"]).astype(np.float32, copy=False)
