"""Graphs rewritten for ONNX Runtime's CUDA kernels, in float32 or float16.

Where ONNX Runtime's own session finds no group norm and no channels-last convolution, its transformers package does.
"""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from fglfast.engine.exported import DECODER, TEXT

KINDS = {TEXT: "clip", DECODER: "vae"}  # all others are UNets


def optimized(network: Path, half: bool) -> Any:
    """The rewritten graph of an exported network, a `ModelProto`.

    Left out are the fusions whose kernels take Stable Diffusion's channels only: BiasSplitGelu (hidden size 2560, 5120
    or 10240) and BiasAdd (320, 640 or 1280); both refuse other sizes when they run (contrib_ops/cuda/diffusion).

    Args:
        network: any but the text projection; whatever attention is to be fused in it is fused already.
        half: whether it is to compute in float16, its inputs and output staying float32.
    """
    with _quiet():
        from onnxruntime.transformers.fusion_options import FusionOptions
        from onnxruntime.transformers.optimizer import optimize_model

        kind = KINDS.get(network.name, "unet")
        options = FusionOptions(kind)
        options.enable_attention = options.enable_bias_splitgelu = options.enable_bias_add = False
        graph = optimize_model(str(network), model_type=kind, opt_level=0, optimization_options=options, use_gpu=True)
        if half:
            kept = _before_sines(graph.model.graph)
            graph.convert_float_to_float16(keep_io_types=True, node_block_list=kept)
            _read_uncast(graph.model.graph)
            _drop_repeated(graph.model.graph)
            graph.topological_sort()
    return graph.model


def save(model: Any, path: Path) -> None:
    """Write a graph, weights of more than a gigabyte beside it."""
    import onnx

    large = sum(len(weight.raw_data) for weight in model.graph.initializer) > 1 << 30
    onnx.save(model, path, save_as_external_data=large, location=f"{path.name}.data")


def _before_sines(graph: Any) -> list[str]:
    """Names of the nodes that the sines are computed from: float16 has not the digits of a timestep's angles."""
    makers = {output: node for node in graph.node for output in node.output}
    pending = [node for node in graph.node if node.op_type in ("Sin", "Cos")]
    names = set()
    while pending:
        node = pending.pop()
        if node.name not in names:
            names.add(node.name)
            pending += [makers[name] for name in node.input if name in makers]
    return sorted(names)


def _read_uncast(graph: Any) -> None:
    """Let a node that stayed float32 read its input as it comes, not cast to float16 and back."""
    from onnx import TensorProto

    inputs = {value.name for value in graph.input}
    narrowed = {
        node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast" and node.input[0] in inputs
    }
    widened = {
        node.output[0]: narrowed[node.input[0]]
        for node in graph.node
        if node.op_type == "Cast" and node.input[0] in narrowed and node.attribute[0].i == TensorProto.FLOAT
    }
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = widened.get(name, name)


def _drop_repeated(graph: Any) -> None:
    """Remove second copies of a node: the conversion makes one for each reader of a constant that stays float32."""
    made: set[str] = set()
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.output[0] not in made:
            graph.node.append(node)
            made.add(node.output[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars and remarks, which are for the package's authors."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)
