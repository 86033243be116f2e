"""A small federation: three clients, a generator with random weights."""

import pytest
import torch
from small_federation import CLASSES, write_images

from fglfast.federation.experiment import Experiment
from fglfast.federation.method_names import METHODS
from fglfast.training.model import build_model


@pytest.fixture(scope="session")
def private(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "private.npz", 40)


@pytest.fixture(scope="session")
def public(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "test.npz", 15, seed=1)


@pytest.fixture(scope="session")
def servers(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "public.npz", 20, seed=2)


@pytest.fixture(scope="session")
def experiment(private, public, servers, tiny_arch, tiny_recipe):
    """An experiment of seconds."""
    return Experiment.model_validate(
        {
            "data": private,
            "test": public,
            "public": servers,
            "partition": {"kind": "dirichlet", "clients": 3, "beta": 0.5},
            "recipe": tiny_recipe,
            "images_per_class": 8,
            "train": {"arch": tiny_arch, "image_size": 16, "epochs": 1, "batch_size": 8},
            "local": {"epochs": 1, "batch_size": 8, "learning_rate": 0.05},
            "rounds": {"fedavg": 3, "fgl": 2, "fine_tune_epochs": 1, "milestones": (2,)},
            "dense": {"epochs": 1, "generator_steps": 2, "batch_size": 8, "width": 4},
            "methods": METHODS,
            "min_clients": 2,
        }
    )


@pytest.fixture
def model(tiny_arch):
    """A classifier of random weights, always the same."""
    torch.manual_seed(0)
    return build_model(tiny_arch, CLASSES)
