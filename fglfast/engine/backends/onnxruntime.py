"""ONNX Runtime's CPU provider. Knows nothing of PyTorch modules."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fglfast.engine.backends import Build
from fglfast.engine.export import DECODER, TEXT, UNET
from fglfast.engine.networks import Networks, in_chunks
from fglfast.generator.load import Shapes


class OnnxRuntimeBackend:
    """Runs graphs that ONNX Runtime optimised for this processor when the engine was built."""

    packages: tuple[str, ...] = ("onnxruntime",)
    optional: tuple[str, ...] = ()
    extra = "cpu"
    needs_onnx = True
    precisions: tuple[str, ...] = ("float32",)

    def compile(self, build: Build, shapes: Shapes, onnx: Path, engine: Path) -> None:
        """Write one optimised graph a network."""
        for name in (TEXT, UNET, DECODER):
            _session(onnx / name, optimized=engine / name)

    def load(self, build: Build, shapes: Shapes, model: Path, engine: Path) -> Networks:
        """Open one session a network."""
        return Networks(
            encode=_function(_session(engine / TEXT)),
            denoise=in_chunks(_function(_session(engine / UNET)), build.unet_batch),
            decode=in_chunks(_function(_session(engine / DECODER)), build.vae_batch),
        )


def _session(path: Path, optimized: Path | None = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _function(session: Any) -> Callable[..., Tensor]:
    names = [given.name for given in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        arrays = [tensor.contiguous().numpy() for tensor in inputs]
        return torch.from_numpy(session.run(None, dict(zip(names, arrays, strict=True)))[0])

    return run


BACKEND = OnnxRuntimeBackend()
