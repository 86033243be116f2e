"""Clients and server of a federation on a GPU that is not there: nothing of theirs is left on the host."""

import numpy as np
import pytest
import torch
from fake_gpu import DEVICE, FakeGpu
from torch._subclasses.fake_tensor import FakeTensor

from fglfast.federation.ensemble import Ensemble
from fglfast.federation.experiment import LocalSettings
from fglfast.federation.local import train_locally
from fglfast.federation.moments import moments_of
from fglfast.training import in_memory
from fglfast.training.batches import TrainingData
from fglfast.training.model import build_model
from fglfast.training.predict import count_right, placed
from fglfast.training.settings import TrainSettings

CLASSES = ("fox", "cat", "dog")
SIZE = 16
ARCH = "bit14-tiny"  # what batch normalisation remembers, the fake device cannot write


class SeeingGpu(FakeGpu):
    """One whose numbers can be looked at: each is one."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return 1.0 if args[0].is_floating_point() else 1
        return super().__torch_dispatch__(func, types, args, kwargs)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: None)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: None)
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: None)  # autograd asks the driver for its streams
    with torch.no_grad(), SeeingGpu() as gpu:
        yield gpu


@pytest.fixture
def images():
    pixels = torch.randint(256, (12, 3, SIZE, SIZE), dtype=torch.uint8)
    rows = np.arange(12)
    return TrainingData(pixels, torch.arange(12) % 3, SIZE, rows[:8], rows[8:])


def test_a_client_trains_and_judges_where_its_gpu_is(gpu, images):
    model = placed(build_model(ARCH, CLASSES))
    assert next(model.parameters()).device == torch.device(DEVICE)
    train_locally(model, images, LocalSettings(epochs=1, batch_size=4), 0, proximal_mu=0.1)
    count_right(model, images, images.held_out)
    moments_of(model, images)


def test_an_ensemble_says_what_it_does_on_its_gpu(gpu, images):
    fresh = build_model(ARCH, CLASSES)
    weights = {name: tensor.cpu().clone() for name, tensor in fresh.state_dict().items()}
    count_right(placed(Ensemble(fresh, [weights, weights])), images, images.held_out)


def test_a_classifier_in_memory_learns_where_it_is_placed(images, monkeypatch):
    asked = []
    monkeypatch.setattr(in_memory, "placed", lambda model: asked.append(model) or model)
    settings = TrainSettings(arch="resnet10-tiny", epochs=1, batch_size=4, image_size=SIZE)
    assert in_memory.trained(images, CLASSES, settings) is asked[0]
