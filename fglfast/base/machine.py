"""What a figure was measured on: the machine, and the versions of the packages that matter."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fglfast import __version__

PACKAGES = ("torch", "diffusers", "transformers", "onnx", "onnxruntime", "openvino", "deepspeed", "numpy")
BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # flags
EIGHT_BITS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"})


def machine_facts(device: str) -> dict[str, str]:
    """The machine, in the words that a reader of a figure needs."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "device": device,
        "memory": f"{memory:.0f} GiB",
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """What the processor is called."""
    return processor_facts().get("model name") or platform.processor() or platform.machine()


def processor_facts() -> dict[str, str]:
    """What Linux says of the processor (of the last that it lists), by key; nothing elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def processor_flags() -> frozenset[str]:
    """Names of the processor's instruction sets, x86's or ARM's."""
    facts = processor_facts()
    return frozenset(facts.get("flags", facts.get("Features", "")).split())


def native_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16; one that does not is many times slower in it than in float32."""
    return not BFLOAT16.isdisjoint(processor_flags())


def native_int8() -> bool:
    """Whether the processor sums products of eight-bit integers in 32 bits; without, sums in 16 bits overflow."""
    return not EIGHT_BITS.isdisjoint(processor_flags())


def package_versions() -> dict[str, str]:
    """Versions of fglfast and of the packages that matter to a figure."""
    found = {"fglfast": __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
