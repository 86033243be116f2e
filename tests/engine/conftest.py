"""Fixtures of engines for a GPU that is not there."""

import shutil
import sys

import fake_cuda
import fake_tensorrt
import pytest

from fglfast.engine import backends
from fglfast.engine.backends import tensorrt as tensorrt_backend
from fglfast.engine.backends import tensorrt_runtime


@pytest.fixture
def engines(engine, tmp_path):
    """A folder for engines in which the model is exported already."""
    export = next(engine.folder.parent.glob("onnx-*"))
    shutil.copytree(export, tmp_path / export.name)
    return tmp_path


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
    tensorrt_backend._log.cache_clear()
    yield module
    tensorrt_backend._log.cache_clear()


@pytest.fixture(scope="session")
def trt_recipe(recipe):
    return recipe.model_copy(update={"backend": "tensorrt"})
