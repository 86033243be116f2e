"""OpenVINO on the CPU: static shapes, one stream a core, float32, bfloat16 or int8.

A batch is cut into one chunk a stream and the chunks run side by side, each on a core of its own,
which is faster than all cores working on one batch together.

The chunks follow from the cores that the engine was built for, which are part of its key. Ranks on one machine share
its streams and leave the chunks as they are, so each makes the bits that it would make alone.
"""

from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from fglfast.base.machine import cores, native_bfloat16, native_int8
from fglfast.base.ranks import ranks_here
from fglfast.engine.backends import Backend
from fglfast.engine.backends.ov_graph import without_sinusoids
from fglfast.engine.exported import DECODER, PROJECTION, TEXT, UNET, Route, example_inputs
from fglfast.engine.networks import Networks, chunks
from fglfast.engine.recipe import Build
from fglfast.generator.shapes import Shapes

SINUSOIDS = "sinusoids.onnx"  # of the timestep
MAX_STREAMS = 16
INT8_ERROR = 0.08  # relative; half of what the gate allows, which looks at other prompts than the calibration


class OpenVinoBackend(Backend):
    """Compiles each network at one static batch and keeps the compiled blob in the engine."""

    packages: tuple[str, ...] = ("openvino",)
    extra = "cpu"
    needs_export = True
    precisions: tuple[str, ...] = ("float32", "bfloat16", "int8")
    needs: Mapping[str, str] = MappingProxyType({"int8": "nncf"})

    def compile(self, build: Build, shapes: Shapes, exported: Path, engine: Path) -> None:
        """Write one blob a network."""
        import openvino

        from fglfast.engine.quantize import quantized_once

        core = openvino.Core()
        for name, batch in _batches(build).items():
            eight_bits = build.precision == "int8" and name not in (TEXT, PROJECTION)
            plain = (exported / name).with_suffix(".xml")
            model = core.read_model(quantized_once(name, exported, INT8_ERROR) if eight_bits else plain)
            model.reshape({key: list(tensor.shape) for key, tensor in example_inputs(shapes, batch)[name].items()})
            parts = {name: model}
            if name == UNET and build.precision == "bfloat16":
                parts[SINUSOIDS], parts[UNET] = without_sinusoids(model)
            for part, graph in parts.items():
                compiled = core.compile_model(graph, "CPU", properties(part, build.precision, ranks=1))
                (engine / blob_of(part)).write_bytes(compiled.export_model().getvalue())

    def load(self, build: Build, shapes: Shapes, model: Path, engine: Path) -> Networks:
        """Open the blobs."""
        import openvino

        core, batches = openvino.Core(), _batches(build)
        if build.precision == "bfloat16":
            batches[SINUSOIDS] = batches[UNET]
        runs: dict[str, Callable[..., Tensor]] = {}
        for name, batch in batches.items():
            blob = BytesIO((engine / blob_of(name)).read_bytes())
            asked = properties(name, build.precision, ranks_here())
            runs[name] = runner(core.import_model(blob, "CPU", asked), batch)
        if build.precision == "bfloat16":
            runs[UNET] = _after_sinusoids(runs[UNET], runs[SINUSOIDS])
        return Networks(runs[TEXT], runs[PROJECTION], runs[UNET], runs[DECODER])

    def route(self, precision: str) -> Route:
        """OpenVINO's own format, whatever is made of it."""
        return Route(openvino=True)

    def uses_gpu(self) -> bool:
        """Never: it is the CPU's."""
        return False

    def refusal(self, precision: str) -> str:
        """Whether the processor lacks what a precision needs.

        Sums of eight bits that overflow leave no layer that keeps the bound; bfloat16 would be float32 after all.
        """
        if precision == "bfloat16" and not native_bfloat16():
            return "this processor does not compute in bfloat16 (AVX-512 BF16 or AMX)"
        lacks = precision == "int8" and not native_int8()
        return "this processor has no instructions for int8 (VNNI or AMX)" if lacks else ""


def runner(compiled: Any, batch: int) -> Callable[..., Tensor]:
    """A compiled network as a function of any number of rows: chunks of a batch, side by side."""
    requests: list[Any] = []

    def run(*inputs: Tensor) -> Tensor:
        rows = len(inputs[0])
        arrays = [[tensor.contiguous().numpy() for tensor in chunk] for chunk in chunks(batch, *inputs)]
        while len(requests) < len(arrays):
            requests.append(compiled.create_infer_request())
        for request, chunk in zip(requests, arrays, strict=False):
            request.start_async(dict(enumerate(chunk)), share_inputs=True)
        outputs = []
        for request, _ in zip(requests, arrays, strict=False):
            request.wait()
            outputs.append(torch.from_numpy(request.get_output_tensor(0).data.copy()))
        return torch.cat(outputs)[:rows]

    return run


def _after_sinusoids(unet: Callable[..., Tensor], sinusoids: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda latents_BCHW, timestep_B, text_BLE: unet(latents_BCHW, sinusoids(timestep_B), text_BLE)


def properties(network: str, precision: str, ranks: int) -> dict[str, Any]:
    """Properties of a network in one rank of several on this machine; pinned, they would all sit on the first cores."""
    half = precision == "bfloat16" and network in (UNET, DECODER)  # the others run once a prompt, or must be exact
    asked = {
        "NUM_STREAMS": max(1, streams() // ranks),
        "INFERENCE_NUM_THREADS": max(1, cores() // ranks),
        "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
    }
    return asked if ranks == 1 else asked | {"ENABLE_CPU_PINNING": False}


def _batches(build: Build) -> dict[str, int]:
    unet, decoder = (max(1, batch // streams()) for batch in (build.unet_batch, build.vae_batch))
    return {TEXT: 1, PROJECTION: 1, UNET: unet, DECODER: decoder}


def streams() -> int:
    """How many chunks run side by side: one a core."""
    return min(MAX_STREAMS, cores())


def blob_of(name: str) -> str:
    """The file of a compiled network, by the name that it is exported under."""
    return Path(name).with_suffix(".blob").name


BACKEND = OpenVinoBackend()
