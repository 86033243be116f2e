"""Write a generator's networks as files that other runtimes read, any batch, by one of `exported`'s routes."""

import logging
import warnings
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from fglfast.engine.attention import install
from fglfast.engine.conversion import convert
from fglfast.engine.exported import DECODER, PROJECTION, TEXT, UNET, Route, example_inputs
from fglfast.engine.fusions import FILE, Counts, Exported, counting, multi_head_attention
from fglfast.generator.load import Generator, XLUNetPart
from fglfast.generator.shapes import Shapes

EXPORT_BATCH = 2  # the exporter fixes sizes of 0 and 1
MOST_ROWS = 63  # told of 64, which diffusers upsamples by another kernel, the exporter traces twice; a graph takes any


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
    Exported(modules=modules, float16=tuple(half)).save(folder / FILE)


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
