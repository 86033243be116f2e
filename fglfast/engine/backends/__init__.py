"""The backends by name, and why one is missing. Each is one small file with a `Backend` in it."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

from torch import cuda  # not `torch` itself: a backend of that name becomes an attribute of this package

from fglfast.config import Settings
from fglfast.engine.networks import Networks
from fglfast.errors import MissingExtraError, UsageError
from fglfast.generator.load import Shapes

NAMES = ("torch", "onnxruntime", "openvino", "tensorrt")
# A package, and the distributions that bring it.
DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
}


class Build(Settings):
    """What of a recipe is compiled in: the part of an engine's key that the user chose."""

    backend: str
    precision: str
    image_size: int
    unet_batch: int
    vae_batch: int


class Backend(Protocol):
    """How one runtime compiles and runs the networks.

    Attributes:
        packages: what has to be installed, by import name.
        extra: the extra of this package that installs them.
        needs_onnx: whether it compiles the exported ONNX files.
        needs_cuda: whether it runs on an NVIDIA GPU only.
    """

    packages: tuple[str, ...]
    extra: str
    needs_onnx: bool
    needs_cuda: bool = False

    def compile(self, build: Build, shapes: Shapes, onnx: Path, engine: Path) -> None:
        """Write into `engine` all that `load` needs, besides the model folder."""
        ...

    def load(self, build: Build, shapes: Shapes, model: Path, engine: Path) -> Networks:
        """Open the compiled networks."""
        ...

    def key_facts(self) -> dict[str, str]:
        """What besides the packages decides here how it compiles; part of an engine's key."""
        return {}


def find_backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        UsageError: there is no such backend.
        MissingExtraError: it cannot be used here; the hint is the install command.
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
    backend: Backend = import_module(f"fglfast.engine.backends.{name}").BACKEND
    install = f"pip install 'fglfast[{backend.extra}]'"
    for package in backend.packages:
        if not _version(package):
            return MissingExtraError(f"backend {name} needs {package}, which is not installed", install)
    return _no_gpu(name, backend, install) if backend.needs_cuda else None


def _no_gpu(name: str, backend: Backend, install: str) -> MissingExtraError | None:
    """Why an installed GPU backend cannot run here: no device, or libraries that do not load."""
    if not cuda.is_available():
        return MissingExtraError(
            f"backend {name} needs a CUDA device, and PyTorch finds none",
            "use another backend, or install an NVIDIA driver and a CUDA build of torch",
        )
    for package in backend.packages:
        try:
            import_module(package)
        except (ImportError, OSError) as error:
            return MissingExtraError(f"backend {name}: {package} is installed but does not load ({error})", install)
    return None


def installed() -> list[str]:
    """Names of the backends that can be used here."""
    return [name for name in NAMES if missing(name) is None]


def versions(backend: Backend) -> dict[str, str]:
    """Versions of everything an engine of this backend depends on."""
    packages = ("torch", "diffusers", "transformers", "onnx", "onnxscript", *backend.packages)
    return {package: _version(package) or "" for package in sorted(set(packages))} | backend.key_facts()


def _version(package: str) -> str | None:
    for name in DISTRIBUTIONS.get(package, (package,)):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None
