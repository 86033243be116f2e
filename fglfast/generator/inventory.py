"""An inventory of adapters of a generator's text embeddings, and a mixture of them: multi-head adapter routing.

Each adapter (Page-Caccia et al., arXiv 2211.03831) changes a text embedding by a low-rank product and a bias for each
token position; what mixes them is the softmax of a few routing logits, one for each adapter and each head, which is a
block of the embedding's channels:

    e' = e + sum_r softmax_r(logits_rh) (e A_r B_r + b_r)_h

The first token stays: it is the same for all prompts. Because the embedding is changed before it is projected, a
compiled engine draws by it as it is. Knows no image and no payload.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from fglfast.base.config import Settings, first_problem
from fglfast.base.errors import BadInputError
from fglfast.base.files import write_atomic
from fglfast.base.names import ClassName
from fglfast.base.untrusted import json_object, read_bytes

METADATA_KEY = "fglfast-inventory"
MOST_BYTES = 1 << 28
HINT = "make it with fglfast inventory, or ask the server for its file again"
TENSORS = ("bias", "down", "up")

Size = Annotated[int, Field(ge=1, le=1 << 16)]


class InventorySizes(Settings):
    """Sizes of an inventory.

    Attributes:
        adapters: how many (R).
        heads: blocks of channels that are mixed apart (H).
        rank: of each adapter's product (k).
    """

    adapters: int = Field(12, ge=2, le=1024)
    heads: int = Field(4, ge=1, le=1024)
    rank: int = Field(4, ge=1, le=1024)


class InventoryHeader(InventorySizes):
    """What an inventory's file says of itself.

    Attributes:
        format_version: of the file.
        text_encoder: fingerprint of the text encoder whose embeddings are changed.
        model: fingerprint of the generator that it was learned through.
        length: tokens of an embedding (L).
        width: channels of an embedding (D).
        transformations: names of the public ones that it was learned under.
    """

    format_version: Annotated[int, Field(ge=1, le=1)] = 1
    text_encoder: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    model: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    length: Size
    width: Size
    transformations: tuple[ClassName, ...]

    @model_validator(mode="after")
    def _divided(self) -> "InventoryHeader":
        if self.width % self.heads or self.length < 2:
            raise ValueError(f"heads: {self.heads} do not divide an embedding of {self.width} channels")
        return self

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of each tensor."""
        adapters, rank, width = self.adapters, self.rank, self.width
        return {
            "bias": (adapters, self.length - 1, width),
            "down": (adapters, width, rank),
            "up": (adapters, rank, width),
        }


class Inventory(nn.Module):
    """Adapters of the described sizes that change nothing yet: a random half of each product, and zeros."""

    def __init__(self, description: InventoryHeader) -> None:
        super().__init__()
        self.description = description
        shapes = description.shapes()
        draws = torch.Generator().manual_seed(0)
        self.down = nn.Parameter(torch.randn(shapes["down"], generator=draws) / math.sqrt(description.width))
        self.up = nn.Parameter(torch.zeros(shapes["up"]))
        self.bias = nn.Parameter(torch.zeros(shapes["bias"]))

    def forward(self, text_ULD: Tensor, logits_URH: Tensor) -> Tensor:
        """Text embeddings [U,L,D], each changed by its own mixture [U,R,H] of the adapters."""
        rest_ULD = text_ULD[:, 1:]
        share_URD = logits_URH.softmax(1).repeat_interleave(self.description.width // self.description.heads, dim=2)
        inner_ULRK = torch.einsum("uld,rdk->ulrk", rest_ULD, self.down)
        change_ULD = torch.einsum("ulrk,rkd,urd->uld", inner_ULRK, self.up, share_URD)
        bias_ULD = torch.einsum("rld,urd->uld", self.bias, share_URD)
        return torch.cat([text_ULD[:, :1], rest_ULD + change_ULD + bias_ULD], dim=1)

    @property
    def route_shape(self) -> tuple[int, int]:
        """Of the logits that mix it: adapters and heads."""
        return self.description.adapters, self.description.heads

    def to_bytes(self) -> bytes:
        """The file: equal inventories, equal bytes."""
        metadata = json.dumps(self.description.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        tensors = {name: getattr(self, name).detach().cpu().float().contiguous() for name in TENSORS}
        return save(tensors, metadata={METADATA_KEY: metadata})

    def fingerprint(self) -> str:
        """sha256 of its file: a client names the inventory that its routing is for by it."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def save_inventory(inventory: Inventory, path: Path) -> int:
    """Write an inventory, whole or not at all; returns how many bytes it has."""
    content = inventory.to_bytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)
    return len(content)


def load_inventory(path: Path, text_encoder: str | None = None) -> Inventory:
    """Read an inventory that a stranger may have made, for a text encoder of this fingerprint or for any; frozen.

    Raises:
        BadInputError: it cannot be read, is no inventory, or is for another text encoder.
    """
    try:
        content = read_bytes(path, MOST_BYTES)
        description = _described(content)
        inventory = Inventory(description)
        tensors = load(content)
        _check_tensors(tensors, description)
        inventory.load_state_dict(tensors)
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror})", "check the path") from error
    except (SafetensorError, ValueError) as error:
        problem = first_problem(error) if isinstance(error, ValidationError) else error
        raise BadInputError(f"{path}: not an inventory of adapters ({problem})", HINT) from error
    if text_encoder not in (None, description.text_encoder):
        raise BadInputError(
            f"{path}: made for text encoder {description.text_encoder[:12]}, not {str(text_encoder)[:12]}",
            "use the inventory and the model folder of one server",
        )
    return inventory.eval().requires_grad_(False)


def _described(content: bytes) -> InventoryHeader:
    """What a file says of itself, its sizes held against the bytes that are there before any tensor is made.

    Raises:
        ValueError: it says nothing, or what cannot be.
    """
    length = int.from_bytes(content[:8], "little")
    metadata = json_object(content[8 : 8 + min(length, len(content))]).get("__metadata__")
    if not isinstance(metadata, dict) or set(metadata) != {METADATA_KEY} or not isinstance(metadata[METADATA_KEY], str):
        raise ValueError(f"no metadata {METADATA_KEY!r}")
    description = InventoryHeader.model_validate_json(metadata[METADATA_KEY], strict=True)
    if 4 * sum(map(math.prod, description.shapes().values())) != len(content) - 8 - length:
        raise ValueError("its sizes are not those of its bytes")
    return description


def _check_tensors(tensors: dict[str, Tensor], description: InventoryHeader) -> None:
    found = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    if found != {name: (torch.float32, shape) for name, shape in description.shapes().items()}:
        raise ValueError("tensors of other names, types or shapes")
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity")
