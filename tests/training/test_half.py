"""Where a training computes in bfloat16."""

import pytest
import torch

from fglfast.base.errors import UsageError
from fglfast.training import half
from fglfast.training.half import computes_half
from fglfast.training.model import build_model
from fglfast.training.settings import TrainSettings

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def native(monkeypatch):
    monkeypatch.setattr(half, "native_bfloat16", lambda: True)


@pytest.mark.parametrize(("size", "expected"), [(8, False), (16, False), (17, True), (32, True)])
def test_a_cpu_computes_in_bfloat16_where_its_gradients_are_numbers(size, expected):
    model = build_model("resnet10-tiny", ("a", "b"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    asked = TrainSettings(arch="resnet10-tiny", image_size=size)
    assert computes_half(asked, model, size, CPU) is expected
    assert model.training is build_model("resnet10-tiny", ("a", "b")).training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not computes_half(asked.model_copy(update={"precision": "float32"}), model, size, CPU)
    if not expected:
        with pytest.raises(UsageError, match=f"at {size} pixels"):
            computes_half(asked.model_copy(update={"precision": "bfloat16"}), model, size, CPU)


@pytest.mark.parametrize(("capability", "native"), [((7, 5), False), ((8, 0), True), ((9, 0), True), ((12, 0), True)])
def test_an_old_gpu_emulates_bfloat16(capability, native, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)  # it counts emulation
    assert half.native_half(torch.device("cuda", 0)) == native


@pytest.mark.parametrize("native", [False, True])
def test_a_processor_is_asked_for_its_instructions(native, monkeypatch):
    monkeypatch.setattr(half, "native_bfloat16", lambda: native)
    assert half.native_half(CPU) == native
