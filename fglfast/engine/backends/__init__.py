"""The backends by name, and why one is missing. Each is one small file with a `Backend` in it."""

import platform
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import torch

from fglfast.base.errors import FglError, MissingExtraError, UsageError
from fglfast.base.machine import native_bfloat16
from fglfast.engine.exported import Route
from fglfast.engine.networks import Networks
from fglfast.engine.recipe import Build
from fglfast.generator.shapes import Shapes

MODULES = {
    "torch": "eager",
    "torch-compile": "compiled",
    "torch-autotune": "autotuned",
    "onnxruntime": "ort",
    "openvino": "ov",
    "tensorrt": "trt",
}
NAMES = tuple(MODULES)
# A package, and the distributions that bring it.
DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
}
X86 = ("x86_64", "amd64")
HINT = "choose another precision in the recipe"


class Backend(Protocol):
    """How one runtime compiles and runs the networks.

    Attributes:
        packages: what it needs, by import name.
        optional: what it uses if it is there.
        extra: the extra that installs the packages.
        needs_export: whether `compile` reads exported networks.
        needs_cuda: whether it runs on an NVIDIA GPU only.
        precisions: what it can compute in.
        needs: the package that a precision needs besides, by precision.
        either_half: whether its float16 may be faster than its bfloat16, so that "auto" tries both.
    """

    packages: tuple[str, ...]
    optional: tuple[str, ...] = ()
    extra: str
    needs_export: bool
    needs_cuda: bool = False
    precisions: tuple[str, ...]
    needs: Mapping[str, str] = MappingProxyType({})
    either_half: bool = False

    def compile(self, build: Build, shapes: Shapes, exported: Path, engine: Path) -> dict[str, dict[str, int]] | None:
        """Write into `engine` all that `load` needs, besides the model folder; return the fused operators, if known."""
        ...

    def load(self, build: Build, shapes: Shapes, model: Path, engine: Path) -> Networks:
        """Open the compiled networks."""
        ...

    def key_facts(self) -> dict[str, str]:
        """What besides the packages decides here how it compiles; part of an engine's key."""
        return {}

    def route(self, precision: str) -> Route:
        """How it wants the networks exported."""
        return Route()

    def uses_gpu(self) -> bool:
        """Whether it computes on a GPU, where there is one."""
        return True

    def refusal(self, precision: str) -> str:
        """Why this machine's processor or GPU cannot compute in one of `precisions`; empty if it can."""
        return ""


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
    return _backend(name)


def chosen(name: str, precision: str) -> list[str]:
    """Names of the backends to build: one, or all that "auto" measures.

    Raises:
        UsageError: no such backend, or none that can do the precision here.
        MissingExtraError: the backend's packages are not installed, or that of the precision.
    """
    if name == "auto":
        having = [other for other in installed() if resolved(other, precision) in _backend(other).precisions]
        having = [other for other in having if not _slow(other, precision)]
    elif resolved(name, precision) in find_backend(name).precisions:
        having = [name]
    else:
        able = [other for other in NAMES if precision in _backend(other).precisions]
        raise UsageError(f"backend {name} has no precision {precision}", f"choose one of: {', '.join(able)}")
    reasons = {other: _unable(other, resolved(other, precision)) for other in having}
    able = [other for other, reason in reasons.items() if reason is None]
    if not able:
        nobody = UsageError(f"no installed backend has precision {precision}", HINT)
        found = [reason for reason in reasons.values() if reason]
        raise min(found, key=lambda reason: not isinstance(reason, MissingExtraError), default=nobody)
    return able


def pairs(name: str, precision: str) -> list[tuple[str, str]]:
    """Backends and precisions to build: one, or all of which the fastest is to be found; raises as `chosen`."""
    found = []
    for backend in chosen(name, precision):
        own = resolved(backend, precision)
        other = precision == "auto" and own == "bfloat16" and _backend(backend).either_half
        found += [(backend, half) for half in (own, *(["float16"] if other else []))]
    return found


def resolved(name: str, precision: str) -> str:
    """What "auto" is to a backend here; any other precision is itself.

    A GPU multiplies bfloat16 from compute capability 8.0 on, float16 from 7.0; a CPU with AVX-512 BF16 or AMX bfloat16.
    Others emulate them.
    """
    if precision != "auto":
        return precision
    backend = find_backend(name)
    if torch.cuda.is_available() and backend.uses_gpu():
        major = torch.cuda.get_device_capability()[0]
        native = [half for half, least in (("bfloat16", 8), ("float16", 7)) if major >= least]
    else:
        native = ["bfloat16"] if native_bfloat16() else []
    able = (half for half in native if half in backend.precisions and not backend.refusal(half))
    return next(able, "float32")


def _unable(name: str, precision: str) -> FglError | None:
    """Why an installed backend cannot compute here in one of its precisions, or None."""
    backend = _backend(name)
    reason = backend.refusal(precision)
    if reason:
        return UsageError(f"backend {name}: {reason}", HINT)
    package = backend.needs.get(precision)
    if package and not _version(package):
        message = f"backend {name} needs {package} for precision {precision}, and it is not installed"
        return MissingExtraError(message, f"pip install {package}")
    return None


def missing(name: str) -> MissingExtraError | None:
    """Why a backend cannot be used here, or None."""
    backend = _backend(name)
    install = f"pip install 'fglfast[{backend.extra}]'"
    for package in backend.packages:
        if not _version(package):
            return MissingExtraError(f"backend {name} needs {package}, which is not installed", install)
    return _no_gpu(name, backend, install) if backend.needs_cuda else None


def _no_gpu(name: str, backend: Backend, install: str) -> MissingExtraError | None:
    """Why an installed GPU backend cannot run here: no device, or libraries that do not load."""
    if not torch.cuda.is_available():
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


def worth_measuring() -> list[str]:
    """What a benchmark measures unless told otherwise, as NAME:PRECISION: backends that are not slow to try.

    In float32, in the device's own 16 bits, and in int8.
    """
    return [
        f"{name}:{precision}"
        for precision in ("float32", "bfloat16", "float16", "int8")
        for name in installed()
        if precision in _backend(name).precisions
        and precision in ("float32", "int8", resolved(name, "auto"))
        and not _slow(name, precision)
        and _unable(name, precision) is None
    ]


def versions(backend: Backend, precision: str = "float32") -> dict[str, str]:
    """Versions of everything an engine of this backend and precision depends on."""
    packages = {"torch", "diffusers", "transformers", "onnx", "onnxscript", *backend.packages, *backend.optional}
    if precision in backend.needs:
        packages.add(backend.needs[precision])
    return {package: _version(package) or "" for package in sorted(packages)} | backend.key_facts()


def _slow(name: str, precision: str) -> bool:
    """Whether "auto" need not try a backend that works here.

    Beside a GPU, whatever computes on the CPU, and what is tuned for many minutes first. On a CPU, compiling takes
    minutes and ends behind OpenVINO (share of the matrix-product rate 0.49 to 0.76), and with torchao's int8 layers a
    pass of mini takes four times the processor time of OpenVINO's int8, and no less than without them.
    """
    if torch.cuda.is_available():
        return name == "torch-autotune" or not _backend(name).uses_gpu()
    return name == "torch-compile" or (name == "torch" and precision == "int8")


def behind(name: str, precision: str) -> bool:
    """Whether another backend is known to be faster than one here, so that "auto" tries this one only if that fails.

    On x86 processors a UNet pass takes ONNX Runtime 1.3 times as long as OpenVINO in float32 and twice as long as
    OpenVINO's in bfloat16, PyTorch 1.5 to 1.9 and 1.9 to 2.4 times (`benchmarks/RESULTS.md`).
    """
    here = platform.machine().lower() in X86 and not torch.cuda.is_available() and missing("openvino") is None
    return here and name in ("onnxruntime", "torch") and precision in _backend("openvino").precisions


def _backend(name: str) -> Backend:
    backend: Backend = import_module(f"fglfast.engine.backends.{MODULES[name]}").BACKEND
    return backend


def _version(package: str) -> str | None:
    for name in DISTRIBUTIONS.get(package, (package,)):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None
