"""Fixtures of engines: their exports, which take long and are made once, and a GPU that is not there."""

import shutil
import sys
from functools import cache

import fake_cuda
import fake_tensorrt
import onnx
import pytest

from fglfast.engine import backends
from fglfast.engine.backends import trt_messages as tensorrt_messages
from fglfast.engine.backends import trt_runtime as tensorrt_runtime
from fglfast.engine.export import export_once
from fglfast.engine.exported import DECODER, UNET, export_folder
from fglfast.engine.networks import Networks
from fglfast.engine.trajectory import Reference
from fglfast.sampler.schedule import Sampling


@pytest.fixture
def engines(engine, tmp_path):
    """A folder for engines in which the model is exported and sampled already."""
    plain = export_folder(engine.manifest.key, engine.folder.parent)
    shutil.copytree(plain, tmp_path / plain.name)
    for run in plain.parent.glob("reference-*.safetensors"):
        shutil.copy(run, tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def exports(engine, random_mini):
    """Make the export of a route, once, under the name that it is looked for."""
    key, root = engine.manifest.key, engine.folder.parent
    reference = Reference(random_mini, engine.shapes, Sampling())

    @cache
    def make(route):
        routed = key.model_copy(update={"versions": key.versions | {"export": str(route)}})
        folder = export_folder(routed, root)
        export_once(reference, route, folder)
        return folder

    return make


@pytest.fixture
def exported(exports, engines):
    """Lay exports of some routes into a folder for engines: PyTorch cannot make one while a GPU is pretended."""

    def lay(*routes):
        for folder in map(exports, routes):
            shutil.copytree(folder, engines / folder.name)
        return engines

    return lay


@pytest.fixture(params=fake_tensorrt.VERSIONS)
def tensorrt(request, monkeypatch):
    """TensorRT of either version on a machine with one GPU."""
    yield from _installed(monkeypatch, request.param)


@pytest.fixture
def tensorrt_11(monkeypatch):
    yield from _installed(monkeypatch, fake_tensorrt.VERSIONS[-1])


def _installed(monkeypatch, version):
    module, found = fake_tensorrt.make(version), backends._version
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(backends, "_version", lambda name: module.__version__ if name == "tensorrt" else found(name))
    monkeypatch.setattr(tensorrt_runtime, "DEVICE", "cpu")
    fake_cuda.install(monkeypatch)
    tensorrt_messages.log.cache_clear()
    yield module
    tensorrt_messages.log.cache_clear()


@pytest.fixture(scope="session")
def trt_recipe(recipe):
    return recipe.model_copy(update={"backend": "tensorrt"})


@pytest.fixture(scope="session")
def torch_recipe(recipe):
    return recipe.model_copy(update={"backend": "torch"})


@pytest.fixture(scope="session")
def uncompiled():
    """Make the networks of an engine that computes as float32 PyTorch does, of a generator."""
    return lambda generator: Networks(generator.text, generator.projection, generator.unet, generator.decoder)


@pytest.fixture(scope="session")
def require_narrow():
    """Require of the UNet and the decoder in a folder a type between inputs and outputs of float32."""

    def require(folder, kind):
        for name in (UNET, DECODER):
            graph = onnx.load(folder / name).graph
            values = (*graph.input, *graph.output)
            assert {value.type.tensor_type.elem_type for value in values} == {onnx.TensorProto.FLOAT}
            weights = [weight.data_type for weight in graph.initializer if len(weight.dims) > 1]
            assert weights.count(kind) > 0.9 * len(weights) and len(weights) > 20
            readers = [node for node in graph.node if "timestep" in node.input]
            assert bool(readers) == (name == UNET) and not any(node.op_type == "Cast" for node in readers)

    return require


@pytest.fixture
def traced():
    """The graphs that torch.compile traces with `traced.backend`, which runs them as they are: nothing is compiled."""

    class Graphs(list):
        def backend(self, graph, _inputs):
            self.append(graph)
            return graph

    return Graphs()
