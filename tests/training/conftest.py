"""Fixtures of the training tests."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from training_samples import write_synthetic


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("data") / "synthetic")


@pytest.fixture
def make_synthetic(tmp_path: Path) -> Callable[..., Path]:
    return lambda **facts: write_synthetic(tmp_path / "synthetic", **facts)


@pytest.fixture(scope="session")
def tiny_arch(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a JSON config of a network of a few thousand weights."""
    path = tmp_path_factory.mktemp("arch") / "tiny.json"
    config = {
        "model_type": "resnet",
        "layer_type": "basic",
        "embedding_size": 16,
        "hidden_sizes": [16, 32],
        "depths": [1, 1],
    }
    path.write_text(json.dumps(config))
    return str(path)
