"""Linear layers in eight bits for the torch backends, by torchao.

Weights are rounded when the engine is loaded, with a scale for each output channel; activations as they pass, with a
scale for each row. Nothing is calibrated, so the same weights always give the same layers.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fglfast.base.errors import FglError, MissingExtraError
from fglfast.engine.parity import EIGHT_BITS

PACKAGES = dict.fromkeys(EIGHT_BITS, "torchao")
FLOAT8_CAPABILITY = (8, 9)
MULTIPLE = 16  # cuBLAS multiplies float8 matrices of such sides only; int8 of multiples of 8


def float_type(precision: str, device: str) -> torch.dtype:
    """The type of all arithmetic that is not in eight bits."""
    if precision in EIGHT_BITS:
        return torch.bfloat16 if device == "cuda" else torch.float32
    found: torch.dtype = getattr(torch, precision)
    return found


def refusal(precision: str) -> str:
    """Why this machine has no arithmetic in a precision; empty if it has."""
    if precision != "float8":
        return ""
    if not torch.cuda.is_available():
        return "float8 needs a GPU of compute capability 8.9 or higher, and PyTorch finds no GPU"
    major, minor = torch.cuda.get_device_capability()
    if (major, minor) < FLOAT8_CAPABILITY:
        return f"float8 needs a GPU of compute capability 8.9 or higher, and this one has {major}.{minor}"
    return ""


def to_eight_bits(unet: nn.Module, precision: str) -> int:
    """Convert the linear layers of a UNet's attention blocks, in place; its processors must be installed before.

    Those of the time embedding stay: they see one row an image, and CUDA's int8 product asks for more than 16.

    Args:
        unet: on its device, in its final floating-point type.
        precision: "int8" or "float8".

    Returns:
        How many layers were converted.

    Raises:
        FglError: there is none to convert.
        MissingExtraError: torchao does not fit the installed PyTorch.
    """
    layers = {module for name, module in unet.named_modules() if "attentions." in name and _fits(module)}
    if not layers:
        raise FglError(
            f"precision {precision}: no linear layer in the UNet's attention blocks has sides that {MULTIPLE} divides",
            "use bfloat16",
        )
    quantize, config = _torchao(precision, unet)
    quantize(unet, config, lambda module, _: module in layers)
    return len(layers)


def _fits(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and not (module.in_features % MULTIPLE or module.out_features % MULTIPLE)


def _torchao(precision: str, unet: nn.Module) -> tuple[Callable[..., Any], Any]:
    """The function of torchao that converts layers, and its settings for a precision.

    Scales by row: by tensor they cost accuracy, and layers of 128x128 fail (pytorch/ao issue 4089). Inductor's settings
    are left alone: torchao would change them for all that the process compiles.
    """
    try:
        from torchao.quantization import (
            Float8DynamicActivationFloat8WeightConfig,
            Int8DynamicActivationInt8WeightConfig,
            PerRow,
            quantize_,
        )
        from torchao.utils import should_reduce_range
    except ImportError as error:
        raise MissingExtraError(
            f"torchao is installed, but does not fit torch {torch.__version__} ({error})",
            "pip install --upgrade torchao, or a newer torch",
        ) from error
    if precision == "float8":
        return quantize_, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False)
    narrow = should_reduce_range(next(unet.parameters()).device)  # without VNNI, sums of products overflow 16 bits
    return quantize_, Int8DynamicActivationInt8WeightConfig(reduce_range=narrow, set_inductor_config=False)
