"""What can be known of TensorRT without running it: is it there, its parser's operators, its signatures."""

import importlib
import inspect
import re
from pathlib import Path

import binding_checks
import fake_tensorrt
import onnx
import pytest
import torch

from fglfast.base.errors import MissingExtraError
from fglfast.engine import backends
from fglfast.engine.exported import DECODER, PROJECTION, TEXT, UNET, Route


def test_a_missing_package_a_missing_gpu_and_missing_libraries_are_said(monkeypatch):
    with pytest.raises(MissingExtraError, match="tensorrt, which is not installed") as missing:
        backends.find_backend("tensorrt")
    assert missing.value.hint == "pip install 'fglfast[tensorrt]'" and missing.value.exit_code == 3
    monkeypatch.setattr(backends, "_version", lambda package: "11.4")
    with pytest.raises(MissingExtraError, match="needs a CUDA device, and PyTorch finds none"):
        backends.find_backend("tensorrt")
    assert "tensorrt" not in backends.installed()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.import_module("fglfast.engine.backends"), "import_module", _no_libraries)
    with pytest.raises(MissingExtraError, match=r"does not load \(libnvinfer\.so\.11: cannot open"):
        backends.find_backend("tensorrt")
    assert backends.installed() == [name for name in backends.NAMES if name != "tensorrt"]


def _no_libraries(name):
    if name == "tensorrt":
        raise ImportError("libnvinfer.so.11: cannot open shared object file")
    return importlib.import_module(name)


def test_a_distribution_of_one_cuda_counts_too(monkeypatch):
    def version(name):
        if name == "tensorrt-cu13":
            return "11.4"
        raise backends.PackageNotFoundError

    monkeypatch.setattr(backends, "version", version)
    assert backends._version("tensorrt") == "11.4" and backends._version("openvino") is None


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_the_parser_knows_every_operator(precision, exports):
    lines = (Path(__file__).parent / "tensorrt_operators.txt").read_text().splitlines()
    supported = {name for line in lines if not line.startswith("#") for name in line.split()}
    folder = exports(Route(opset=22, precision=precision))
    for name in (TEXT, PROJECTION, UNET, DECODER):
        model = onnx.load(folder / name)
        assert not model.functions and [(part.domain, part.version) for part in model.opset_import] == [("", 22)]
        assert {node.op_type for node in model.graph.node} <= supported
        weights = {weight.name for weight in model.graph.initializer}
        for node in model.graph.node:
            attributes = {part.name: onnx.helper.get_attribute_value(part) for part in node.attribute}
            _within_restrictions(node, attributes, weights)
        dims = [part.type.tensor_type.shape.dim for part in (*model.graph.input, *model.graph.output)]
        assert all(first.dim_param and not any(part.dim_param for part in rest) for first, *rest in dims)
        kinds = {value.type.tensor_type.elem_type for value in model.graph.input}
        assert kinds == {onnx.TensorProto.INT64 if name == TEXT else onnx.TensorProto.FLOAT}


def _within_restrictions(node, attributes, weights):
    """What the same table restricts, for the operators that occur."""
    if node.op_type == "Resize":
        modes = attributes["mode"], attributes["coordinate_transformation_mode"], attributes["nearest_mode"]
        assert modes == (b"nearest", b"asymmetric", b"floor") and not attributes.get("antialias")
    if node.op_type == "LayerNormalization":
        assert len(node.output) == 1
    if node.op_type in ("Unsqueeze", "Squeeze"):
        assert node.input[1] in weights


SAME = {"SupportsInt": "int", "IHostMemory": "Buffer", "buffer": "Buffer", "BuilderFlag": "PyBindEnum"} | {
    "List": "list",
    "IParserError": "ParserError",
    "None": "NoneType",
}


def _type(name: str) -> str:
    """A type's name in pybind11's docstrings, as the fake calls it."""
    short = re.sub(r"\[.*\]", "", name).replace("::", ".").rpartition(".")[2]
    return SAME.get(short, short)


def _overloads(method) -> list[tuple[list[tuple[str, str]], str]]:
    """(name, type) of the parameters without a default, and the return type, of each overload."""
    found = re.findall(rf"^(?:\d+\. )?{method.__name__}\((.*)\) -> (.*)$", method.__doc__, re.MULTILINE)
    required = [re.findall(r"(\w+): ([\w.:]+)(?=,|$)", given) for given, _ in found]
    return [
        ([(name, _type(kind)) for name, kind in given if name != "self"], _type(returned))
        for given, (_, returned) in zip(required, found, strict=True)
    ]


def test_the_fake_is_like_the_installed_tensorrt():
    real = pytest.importorskip("tensorrt", exc_type=ImportError)
    compared = 0
    for kind in fake_tensorrt.CLASSES:
        for name, member in vars(kind).items():
            theirs = getattr(getattr(real, kind.__name__), name, None)
            if isinstance(member, property) and name != "made":
                assert isinstance(theirs, property), f"{kind.__name__}.{name}"
            elif inspect.isfunction(member) and (name == "__init__" or name[0] != "_") and name != "log":
                hints = {key: hint.__name__ for key, hint in binding_checks.get_type_hints(member).items()}
                parameters = inspect.signature(member).parameters.values()
                needed = [
                    (part.name, hints[part.name])
                    for part in parameters
                    if part.name in hints and part.default is part.empty
                ]
                assert (needed, hints["return"]) in _overloads(theirs), f"{kind.__name__}.{name}: {_overloads(theirs)}"
                compared += 1
    strategy = fake_tensorrt.ExecutionContextAllocationStrategy
    for mine in (*fake_tensorrt.ENUMS[real.__version__[:2]], strategy):
        assert set(mine.__members__) <= set(getattr(real, mine.__name__).__members__)
    assert compared > 30 and real.ILogger.Severity.ERROR <= real.ILogger.Severity.WARNING
