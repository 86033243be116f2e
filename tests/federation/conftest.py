"""A small federation: three clients, a generator with random weights."""

import pytest
from small_federation import write_images

from fglfast.federation.experiment import Experiment


@pytest.fixture(scope="session")
def private(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "private.npz", 40)


@pytest.fixture(scope="session")
def public(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "test.npz", 15, seed=1)


@pytest.fixture(scope="session")
def tiny_arch(tmp_path_factory):
    """A classifier of a few thousand weights."""
    path = tmp_path_factory.mktemp("arch") / "tiny.json"
    path.write_text(
        '{"model_type": "resnet", "layer_type": "basic", "depths": [1, 1], "embedding_size": 8, '
        '"hidden_sizes": [8, 16], "downsample_in_first_stage": false}'
    )
    return str(path)


@pytest.fixture(scope="session")
def tiny_recipe(random_mini, tmp_path_factory):
    """A recipe of two unguided steps on the torch backend."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(
        f'model = "{random_mini}"\nbackend = "torch"\nimage_size = 32\nunet_batch = 8\nvae_batch = 8\n'
        "[sampling]\nsteps = 2\nguidance_scale = 1.0\n"
    )
    return str(path)


@pytest.fixture(scope="session")
def experiment(private, public, tiny_arch, tiny_recipe):
    """An experiment of seconds."""
    return Experiment.model_validate(
        {
            "data": private,
            "test": public,
            "partition": {"kind": "dirichlet", "clients": 3, "beta": 0.5},
            "recipe": tiny_recipe,
            "images_per_class": 8,
            "train": {"arch": tiny_arch, "image_size": 16, "epochs": 1, "batch_size": 8},
            "local": {"epochs": 1, "batch_size": 8, "learning_rate": 0.05},
            "rounds": {"fedavg": 3, "fgl": 2, "fine_tune_epochs": 1, "milestones": (2,)},
            "min_clients": 2,
        }
    )
