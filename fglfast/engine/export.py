"""A generator's networks as files that other runtimes read, any batch.

What runs them chooses a `Route`, by what it fuses (ONNX Runtime 1.31, PyTorch 2.13; UNets of sd15, sd21-base, sdxl):

- Its own operator for attention, opset 18: ONNX Runtime's optimiser then finds every normalization and convolution.
  Left to it, it finds no attention in what PyTorch exports at opset 18, no group norm at opset 23, and all of them in
  the old exporter's opset 17 only with NumPy before 2.4 and with the key's product beside the query's.
- Plain products and a softmax, opset 22: TensorRT fuses those itself. Each group norm and each GELU is one operator of
  ONNX, and a convolution may be bfloat16, which neither is so at opset 18. ONNX's own `Attention`, opset 23, TensorRT
  builds only where it has one kernel for it, unless a node says otherwise in an attribute that ONNX does not have: on
  512 channels a head, as in the decoder, it fails (NVIDIA/TensorRT issue 4705).
- Plain, opset 18: ONNX Runtime's TensorRT. ONNX Runtime takes apart the group norms of opset 21.
- OpenVINO's own format, converted from PyTorch without ONNX.
"""

import logging
import os
import shutil
import warnings
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from fglfast.base.config import Settings
from fglfast.engine.attention import install
from fglfast.engine.conversion import convert
from fglfast.engine.fusions import Counts, Exported, counting, multi_head_attention
from fglfast.generator.load import Generator, Shapes, XLUNetPart

# Measured on ONNX Runtime 1.31 and OpenVINO 2026.4: opset 18 runs as fast as 23 or faster on CPU.
OPSET = 18
EXPORT_BATCH = 2  # the exporter fixes sizes of 0 and 1
MOST_ROWS = 63  # told of 64, which diffusers upsamples by another kernel, the exporter traces twice; a graph takes any
TEXT, PROJECTION, UNET, DECODER = "text_encoder.onnx", "text_projection.onnx", "unet.onnx", "vae_decoder.onnx"


class Route(Settings):
    """How networks are exported; those by two routes lie in two folders.

    Attributes:
        opset: of ONNX.
        fused: whether attention is one operator that ONNX Runtime alone has.
        precision: of UNet and decoder between inputs and outputs of float32.
        openvino: whether OpenVINO's own format is wanted, plain and in float32, and not ONNX.
    """

    opset: int = OPSET
    fused: bool = False
    precision: str = "float32"
    openvino: bool = False

    def __str__(self) -> str:
        if self.openvino:
            return "OpenVINO"
        return f"ONNX opset {self.opset}, {'fused' if self.fused else 'plain'} attention, {self.precision}"


def example_inputs(shapes: Shapes, batch: int) -> dict[str, dict[str, Tensor]]:
    """Example inputs of each network by file name: what it is exported, compiled, warmed and timed with.

    Numbers as networks see them: a GPU multiplies zeros faster, and rows of zeros have no scale in eight bits.
    """
    numbers = torch.Generator().manual_seed(0)
    latents = torch.randn(batch, *shapes.latent, generator=numbers)
    text = torch.randn(batch, shapes.text_length, shapes.projected_width, generator=numbers)
    step = {"latents": latents, "timestep": torch.full((batch,), 500.0), "text": text}
    return {
        TEXT: {"token_ids": torch.zeros(batch, shapes.tokens, dtype=torch.int64)},
        PROJECTION: {"text": torch.randn(batch, shapes.text_length, shapes.text_width, generator=numbers)},
        UNET: step,
        DECODER: {"latents": latents},
    }


def export(generator: Generator, shapes: Shapes, folder: Path, route: Route | None = None) -> None:
    """Write the networks into `folder`, a file each; large weights go beside them.

    Args:
        generator: on the CPU; left as it is, at the cost of one more of its networks at a time.
        shapes: sizes of latents and text.
        folder: must exist.
        route: how; the default is plain float32.
    """
    route = route or Route()
    networks: dict[str, nn.Module] = {
        TEXT: generator.text,
        PROJECTION: generator.projection,
        UNET: generator.unet,
        DECODER: generator.decoder,
    }
    modules: dict[str, Counts] = {}
    for name, inputs in example_inputs(shapes, EXPORT_BATCH).items():
        if name in (TEXT, PROJECTION):
            export_one(networks[name], inputs, folder / name, route)
            continue
        dtype = dtype_of(name, generator, getattr(torch, route.precision))
        network = _routed(networks[name], dtype, route)
        with counting(network) as modules[name]:
            export_one(network if dtype == torch.float32 else Narrow(network, dtype), inputs, folder / name, route)
    half = (name for name in modules if dtype_of(name, generator, torch.float16) == torch.float16)
    Exported(modules=modules, float16=tuple(half)).save(folder)


def _routed(network: nn.Module, dtype: torch.dtype, route: Route) -> nn.Module:
    """A network as it is exported: itself, or a copy in another type or with fused attention."""
    if not route.fused and dtype == torch.float32:
        return network
    changed = deepcopy(network).to(dtype)
    if route.fused:
        install(changed, multi_head_attention)
    return changed


def dtype_of(name: str, generator: Generator, dtype: torch.dtype) -> torch.dtype:
    """What UNet or decoder computes in when `dtype` was asked for.

    SDXL's decoder leaves float16's range (its config asks for float32), Stable Diffusion's does not.
    """
    wide = name == DECODER and dtype == torch.float16 and isinstance(generator.unet, XLUNetPart)
    return torch.float32 if wide else dtype


class Narrow(nn.Module):
    """A network of half the width between inputs and an output of float32; a timestep [B] stays what it is."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, *inputs: Tensor) -> Tensor:
        """Cast, compute, cast back."""
        output: Tensor = self.network(*(tensor.to(self.dtype) if tensor.dim() > 1 else tensor for tensor in inputs))
        return output.float()


def link(network: Path, engine: Path) -> None:
    """Put an exported network and its weights into an engine's folder too, as the same files on the disk.

    An engine that needs them stays whole when the export is deleted, and engines of one model share their weights.
    """
    for path in network.parent.glob(f"{network.name}*"):
        try:
            os.link(path, engine / path.name)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, engine / path.name)


def export_one(network: nn.Module, inputs: dict[str, Tensor], path: Path, route: Route) -> None:
    """Write one network, from examples of its inputs by name; its attention and its type are already the route's."""
    if route.openvino:
        convert(network, inputs, path.with_suffix(".xml"))
        return
    batch = torch.export.Dim("batch", min=1, max=MOST_ROWS)
    dynamic = tuple({0: batch} for _ in inputs)
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                tuple(inputs.values()),
                path,
                dynamo=True,
                opset_version=route.opset,
                input_names=list(inputs),
                output_names=["output"],
                dynamic_shapes=(dynamic,) if isinstance(network, Narrow) else dynamic,
                external_data=sum(p.numel() for p in network.parameters()) > 400_000_000,
                verbose=False,
            )
    finally:
        exporter_log.setLevel(level)
