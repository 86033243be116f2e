"""Write a generator's networks as files that other runtimes read, any batch, by one of `exported`'s routes; once."""

import logging
import warnings
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from fglfast.base.console import note
from fglfast.base.files import exclusive, fill_once, lock_of
from fglfast.engine import backends
from fglfast.engine.attention import install
from fglfast.engine.exported import DECODER, PROJECTION, TEXT, UNET, Route, example_inputs, export_folder
from fglfast.engine.fusions import FILE, Counts, Exported, counting, multi_head_attention
from fglfast.engine.manifest import Key
from fglfast.engine.quantize import save_calibration
from fglfast.engine.trajectory import Reference
from fglfast.generator.load import Generator, XLUNetPart
from fglfast.generator.parts import name_of
from fglfast.generator.shapes import Shapes

EXPORT_BATCH = 2  # the exporter fixes sizes of 0 and 1
MOST_ROWS = 63  # told of 64, which diffusers upsamples by another kernel, the exporter traces twice; a graph takes any


def export_for(key: Key, reference: Reference, engines: Path) -> None:
    """What an engine of some key is compiled from: networks, and for eight bits what they are calibrated on."""
    folder, precision = export_folder(key, engines), key.build.precision
    export_once(reference, backends.find_backend(key.build.backend).route(precision), folder)
    if precision == "int8":
        with exclusive(lock_of(folder)):
            save_calibration(reference, folder)


def export_once(reference: Reference, route: Route, folder: Path) -> None:
    """Export a model's networks into a folder, unless they are there; of several processes one does it, others wait."""

    def make(unfinished: Path) -> None:
        note(f"exporting {name_of(reference.model)}: {route}")
        export(reference.generator(), reference.shapes, unfinished, route)

    fill_once(folder, make)


def export(generator: Generator, shapes: Shapes, folder: Path, route: Route) -> None:
    """Write the networks into a folder that is there, a file each; large weights go beside them.

    The generator, on the CPU, is left as it is, at the cost of one more of its networks at a time.
    """
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
        _convert(network, inputs, path.with_suffix(".xml"))
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


def _convert(network: nn.Module, inputs: Mapping[str, Tensor], path: Path) -> None:
    """Write a float32 network in OpenVINO's own format, its weights beside it in a `.bin`; all of its sizes stay open.

    Straight from PyTorch: one conversion, where the way by ONNX has two.
    """
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # What openvino.convert_model does, which besides tells its makers that it was called.
    frontend = FrontEndManager().load_by_framework("pytorch")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        # What PyTorch compares by running the network twice more, the gate looks at.
        example, unchecked = tuple(inputs.values()), {"check_trace": False}
        traced = TorchScriptPythonDecoder(network, example_input=example, trace_kwargs=unchecked)
        model = frontend.convert(frontend.load(traced))
    for name, given in zip(inputs, model.inputs, strict=True):
        given.get_tensor().set_names({name})
    openvino.save_model(model, path, compress_to_fp16=False)
