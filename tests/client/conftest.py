"""A kit of the bundled generator, as its server writes it."""

import pytest

from fglfast.generator.kit import write_kit
from fglfast.generator.parts import bundled


@pytest.fixture(scope="session")
def mini_kit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kits") / "mini"
    write_kit(bundled("mini"), folder, "mini", 32)
    return folder
