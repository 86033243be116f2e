"""What a figure was measured on: the machine, and the versions of the packages that matter."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from fglfast import __version__

PACKAGES = ("torch", "diffusers", "transformers", "onnx", "onnxruntime", "openvino", "deepspeed", "numpy")


def machine_facts(device: str) -> dict[str, str]:
    """The machine, in the words that a reader of a figure needs."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "device": device,
        "memory": f"{memory:.0f} GiB",
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def package_versions() -> dict[str, str]:
    """Versions of fglfast and of the packages that matter to a figure."""
    found = {"fglfast": __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
