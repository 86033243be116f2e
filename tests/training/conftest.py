"""Fixtures of the training tests."""

import json
from pathlib import Path

import pytest
from training_runs import settings_for

from fglfast.training.launch import train
from fglfast.training.results import TrainResult


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


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small images on shared cores: more threads only wait for each other."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, synthetic: Path, tiny_arch: str) -> TrainResult:
    """A run that nothing interrupts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        return train(synthetic, tmp_path_factory.mktemp("reference") / "model", settings_for(tiny_arch), 1)
