"""The backends by name, and why one is missing. Each is one small file with a `Backend` in it."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

from fglfast.config import Settings
from fglfast.engine.networks import Networks
from fglfast.errors import MissingExtraError, UsageError
from fglfast.generator.load import Shapes

NAMES = ("torch", "onnxruntime", "openvino")


class Build(Settings):
    """What of a recipe is compiled in: the part of an engine's key that the user chose."""

    backend: str
    precision: str
    image_size: int
    unet_batch: int
    vae_batch: int


class Backend(Protocol):
    """How one runtime compiles and runs the networks."""

    packages: tuple[str, ...]
    extra: str
    needs_onnx: bool
    precisions: tuple[str, ...]

    def compile(self, build: Build, shapes: Shapes, onnx: Path, engine: Path) -> None:
        """Write into `engine` all that `load` needs, besides the model folder."""
        ...

    def load(self, build: Build, shapes: Shapes, model: Path, engine: Path) -> Networks:
        """Open the compiled networks."""
        ...


def find_backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        UsageError: there is no such backend.
        MissingExtraError: its packages are not installed; the hint is the install command.
    """
    if name not in NAMES:
        raise UsageError(f"no backend named {name!r}", f"choose one of: auto, {', '.join(NAMES)}")
    reason = missing(name)
    if reason:
        raise reason
    backend: Backend = import_module(f"fglfast.engine.backends.{name}").BACKEND
    return backend


def missing(name: str) -> MissingExtraError | None:
    """Why a backend cannot be used here, or None."""
    described = import_module(f"fglfast.engine.backends.{name}")
    for package in described.BACKEND.packages:
        if not _version(package):
            return MissingExtraError(
                f"backend {name} needs {package}, which is not installed",
                f"pip install 'fglfast[{described.BACKEND.extra}]'",
            )
    return None


def installed(precision: str) -> list[str]:
    """Names of the backends that can be used here at some precision."""
    return [name for name in NAMES if missing(name) is None and precision in find_backend(name).precisions]


def versions(backend: Backend, precision: str) -> dict[str, str]:
    """Versions of everything an engine of this backend depends on."""
    packages = ("torch", "diffusers", "transformers", "onnx", "onnxscript", *backend.packages)
    packages += ("nncf",) if precision == "int8" else ()
    return {package: _version(package) or "" for package in sorted(set(packages))}


def _version(package: str) -> str | None:
    names = ("onnxruntime", "onnxruntime-gpu") if package == "onnxruntime" else (package,)
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None
