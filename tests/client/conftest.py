"""A kit of the bundled generator, as its server writes it; a client's few images."""

import pytest

from fglfast.generator.kit import write_kit
from fglfast.generator.parts import bundled


@pytest.fixture(scope="session")
def mini_kit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kits") / "mini"
    write_kit(bundled("mini"), folder, "mini", 32)
    return folder


@pytest.fixture
def private(of_three_classes):
    """One of the classes is held by another client."""
    return of_three_classes
