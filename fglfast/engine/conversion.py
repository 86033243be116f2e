"""A network to OpenVINO's own format, straight from PyTorch: one conversion, where the way by ONNX has two."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn


def convert(network: nn.Module, inputs: Mapping[str, Tensor], path: Path) -> None:
    """Write a network as `path` and, beside it, its weights in a `.bin`; all of its sizes stay open.

    Args:
        network: on the CPU, in float32.
        inputs: examples of its inputs by the names of `forward`'s arguments.
        path: ends in `.xml`.
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
