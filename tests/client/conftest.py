"""A kit of the bundled generator, as its server writes it; a client's few images."""

import numpy as np
import pytest

from fglfast.generator.kit import write_kit
from fglfast.generator.parts import bundled


@pytest.fixture(scope="session")
def mini_kit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kits") / "mini"
    write_kit(bundled("mini"), folder, "mini", 32)
    return folder


@pytest.fixture
def private(tmp_path):
    """Three classes, one of which this client has no image of."""
    images = np.random.default_rng(0).integers(0, 255, (9, 16, 16), dtype=np.uint8)
    path = tmp_path / "private.npz"
    np.savez(path, images=images, labels=np.array([2, 0] * 4 + [2]), class_names=np.array(["bag", "t-shirt", "boot"]))
    return path
