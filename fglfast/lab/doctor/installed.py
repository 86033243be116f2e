"""What is installed and what the machine has. Each probe returns a detail, or raises why there is none.

Knows nothing of how it is shown. Imports no library at the top: one that is broken must not take the others along.
"""

import platform
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata, packages_distributions, requires, version
from pathlib import Path
from traceback import walk_tb

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fglfast import __version__
from fglfast.base.errors import FglError, MissingExtraError
from fglfast.base.machine import cores, machine_facts, processor_flags, processor_name

Probes = dict[str, Callable[[], str]]
X86_VECTORS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
ARM_VECTORS = ("asimd", "sve", "i8mm", "bf16")
DRIVER = Path("/dev/nvidiactl")
GPU_EXTRAS = ("gpu", "tensorrt")
NEEDS_GPU = "needs a CUDA GPU"
COMPILED = "; only needed if your DeepSpeed JSON names an optimizer, which is then compiled"


def reason(error: BaseException) -> str:
    """An error's kind and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__


def has_gpu() -> bool:
    """Whether PyTorch sees a CUDA GPU."""
    import torch

    return torch.cuda.is_available()


def packages() -> Probes:
    """Python, fglfast, each package of its core, and those that a server needs."""
    core = {wanted.name: partial(_package, wanted) for wanted in _requirements("")}
    server = {wanted.name: partial(_package, wanted, "server") for wanted in _requirements("server")}
    return {"python": platform.python_version, "fglfast": partial(str, __version__), **server, **core}


def is_core(name: str) -> bool:
    """Whether nothing works without a package, or only what needs an extra."""
    return name in ("python", "fglfast", *(wanted.name for wanted in _requirements("")))


def extras() -> Probes:
    """Each extra of pyproject.toml."""
    return {name: partial(_extra, name) for name in metadata("fglfast").get_all("Provides-Extra", [])}


def processor() -> Probes:
    """The CPU and its memory."""
    return {"processor": _cpu, "vector instructions": _vectors, "memory": _memory}


def gpus() -> Probes:
    """Each CUDA GPU, or why there is none."""
    import torch

    count = torch.cuda.device_count() if has_gpu() else 0
    return {f"cuda:{index}": partial(_gpu, index) for index in range(count)} or {"cuda": _no_gpu}


def disk_and_hub() -> Probes:
    """Where results and models go."""
    return {"working directory": _disk, "hub": _hub}


def compiler() -> str:
    """The C++ compiler, as PyTorch finds it for DeepSpeed's operators; it must see Python's headers."""
    from torch.utils.cpp_extension import get_cxx_compiler

    command, mend = get_cxx_compiler(), "sudo apt-get install g++ python3-dev" if shutil.which("apt-get") else ""
    if not shutil.which(command):
        raise MissingExtraError(f"{command} is not on PATH{COMPILED}", mend)
    check = (command, "-fsyntax-only", "-x", "c++", "-I", sysconfig.get_path("include"), "-")
    tried = subprocess.run(check, input="#include <Python.h>\n", capture_output=True, text=True, check=False)
    if tried.returncode:
        raise FglError(f"{command}: {tried.stderr.strip().partition(chr(10))[0]}", mend)
    said = subprocess.run((command, "--version"), capture_output=True, text=True, check=True)
    return said.stdout.partition("\n")[0]


def ninja() -> str:
    """The build tool of DeepSpeed's operators; the one of a virtual environment only counts if it is on PATH."""
    if shutil.which("ninja"):
        return subprocess.run(("ninja", "--version"), capture_output=True, text=True, check=True).stdout.strip()
    if distribution_version("ninja") is None:
        raise MissingExtraError(f"not installed{COMPILED}", "pip install ninja")
    raise MissingExtraError(
        f"installed, but not on PATH{COMPILED}", f'export PATH="{sysconfig.get_path("scripts")}:$PATH"'
    )


def distribution_version(name: str) -> str | None:
    """The version of an installed distribution, or of another that brings the module of its name, or None."""
    with suppress(PackageNotFoundError):
        return version(name)
    # onnxruntime-gpu brings the module onnxruntime, and the two distributions do not go together.
    others = _modules().get(name)
    return version(others[0]) if others else None


def _requirements(extra: str) -> list[Requirement]:
    """What pyproject.toml asks for: the core with "", or one extra and those that it contains."""
    every = [Requirement(line) for line in requires("fglfast") or ()]
    own = [one for one in every if (one.marker.evaluate({"extra": extra}) if one.marker else not extra)]
    inner = [contained for one in own if one.name == "fglfast" for contained in one.extras]
    return [one for one in own if one.name != "fglfast"] + [one for name in inner for one in _requirements(name)]


def _met(wanted: Requirement) -> bool:
    found = distribution_version(wanted.name)
    return found is not None and wanted.specifier.contains(found, prereleases=True)


def _package(wanted: Requirement, extra: str = "") -> str:
    found = distribution_version(wanted.name)
    mend = f"pip install 'fglfast[{extra}]'" if extra else f"pip install '{wanted.name}{wanted.specifier}'"
    if found is None or not _met(wanted):
        raise MissingExtraError(f"{found or 'not'} installed, {wanted.specifier} needed", mend)
    try:
        import_module(_module(wanted.name))
    except Exception as error:
        raise FglError(reason(error), f"pip install --force-reinstall {_culprit(error) or wanted.name}") from error
    return found


def _culprit(error: Exception) -> str:
    """The distribution whose code raised: a package that imports a broken one need not be broken itself."""
    modules = [frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in walk_tb(error.__traceback__)]
    return next((_modules()[name][0] for name in reversed(modules) if name in _modules() and name != "fglfast"), "")


def _module(distribution: str) -> str:
    """The module that a distribution brings: Pillow's is PIL."""
    modules = [
        module
        for module, distributions in _modules().items()
        if canonicalize_name(distribution) in map(canonicalize_name, distributions)
    ]
    return distribution if distribution in modules else modules[0]


@cache
def _modules() -> Mapping[str, list[str]]:
    """The distributions that bring each module; reading it takes a fifth of a second."""
    return packages_distributions()


def _extra(name: str) -> str:
    wanted = _requirements(name)
    lacking = ", ".join(f"{one.name}{one.specifier}" for one in wanted if not _met(one))
    if lacking and name in GPU_EXTRAS and not DRIVER.exists():
        raise MissingExtraError(f"{NEEDS_GPU}, and lacks {lacking}")
    if lacking:
        raise MissingExtraError(f"lacks {lacking}", f"pip install 'fglfast[{name}]'")
    return ", ".join(one.name for one in wanted)


def _cpu() -> str:
    return f"{processor_name()}, {cores()} usable cores"


def _vectors() -> str:
    flags = processor_flags()
    found = [name for name in (*X86_VECTORS, *ARM_VECTORS) if name in flags]
    if not found:
        raise MissingExtraError(f"none of {', '.join(X86_VECTORS)}")
    return ", ".join(found)


def _memory() -> str:
    return machine_facts("")["memory"]


def _gpu(index: int) -> str:
    import torch

    ones = torch.ones(8, 8, device=f"cuda:{index}")
    torch.testing.assert_close(ones @ ones, 8 * ones)
    facts = torch.cuda.get_device_properties(index)
    return f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, compute capability {facts.major}.{facts.minor}"


def _no_gpu() -> str:
    import torch

    if not DRIVER.exists():
        raise MissingExtraError("no NVIDIA driver is loaded")
    if torch.version.cuda is None:
        raise MissingExtraError(
            f"torch {torch.__version__} is built without CUDA", "pip install --force-reinstall torch"
        )
    torch.cuda.init()
    raise FglError("CUDA starts, but shows no device")


def _disk() -> str:
    here = Path.cwd()
    with tempfile.TemporaryFile(dir=here) as written:
        written.write(bytes(4096))
        written.flush()
    return f"{shutil.disk_usage(here).free / 2**30:.0f} GiB free in {here}"


def _hub() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return f"HF_HUB_OFFLINE is set: models come from {HF_HUB_CACHE}, nothing is downloaded"
    return f"HF_HUB_OFFLINE is not set: models are downloaded to {HF_HUB_CACHE}"
