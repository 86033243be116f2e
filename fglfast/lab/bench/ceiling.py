"""What shares refer to: the most multiply-adds a second that anything here reaches in a precision, measured.

No library is the fastest everywhere. On AVX-512 processors of AMD PyTorch's float32 product reaches less than a
convolution does, OpenVINO's or its own. So several are timed among the engines, and the fastest counts; an engine that
is faster still is the ceiling itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fglfast.base.machine import cores, native_bfloat16, processor_facts, processor_flags
from fglfast.base.timing import Run, Timing
from fglfast.engine.backends import missing
from fglfast.generator.load import own_device
from fglfast.lab.bench.records import Ceiling

FLOATS = ("float32", "bfloat16", "float16")
REPEATS = 4
GPU_SIDE, CPU_SIDE, EMULATED_SIDE = 8192, 2048, 512  # of a product
# Rows, channels and side of a convolution: large enough to be arithmetic, small enough to stay in a core's cache.
TORCH_CONVOLUTION, OPENVINO_CONVOLUTION = (32, 128, 32), (8, 256, 16)
OPENVINO_PRODUCT = (2048, 1024)
RANGE = 3.0  # of what is rounded to eight bits
# Operations a cycle and core of the widest multiply-add: two units, two operations each, so many lanes.
VECTORS = {"avx512f": 64, "avx2": 32}
FASTER = {"float32": 1, "bfloat16": 2, "int8": 4}
HALVED = ("AuthenticAMD", "25")  # Zen 3 and 4: 512 bits take two cycles


class Probe(NamedTuple):
    """A piece of work that is nothing but multiply-adds, and its operations: two a multiply-add."""

    run: Run
    operations: int


@dataclass(frozen=True)
class Work:
    """What an engine or the training did in a round: so many rows, and so many operations for each."""

    rows: int
    each: int
    timing: Timing

    @property
    def tflops(self) -> float:
        """TFLOP/s."""
        return self.rows * self.each / self.timing.seconds / 1e12


def probes(precision: str) -> dict[str, Probe]:
    """What is timed to find the ceiling of a precision here, by name."""
    if torch.cuda.is_available():
        return {"PyTorch product": _product(precision, GPU_SIDE)}
    slow = precision == "float16" or (precision == "bfloat16" and not native_bfloat16())
    found = {"PyTorch product": _product(precision, EMULATED_SIDE if slow else CPU_SIDE)}
    if precision in FLOATS and not slow:
        found["PyTorch convolution"] = _convolution(precision)
    if precision != "float16" and missing("openvino") is None:
        found["OpenVINO convolution"] = _openvino(precision, *OPENVINO_CONVOLUTION)
        found["OpenVINO product"] = _openvino(precision, *OPENVINO_PRODUCT)
    return found


def highest(precision: str, tried: Mapping[str, tuple[Probe, Timing]], works: Mapping[str, Work]) -> Ceiling:
    """The ceiling: the fastest round of the probes, or of the work in that precision if it is faster.

    So no share of what is held against it is above 1.
    """
    found = {name: (probe.operations / timing.fastest / 1e12, timing) for name, (probe, timing) in tried.items()}
    found |= {name: (work.tflops, work.timing) for name, work in works.items()}
    best = max(found, key=lambda name: found[name][0])
    tflops, timing = found[best]
    return Ceiling(
        precision=precision,
        threads=torch.get_num_threads(),
        by=best,
        tflops=tflops,
        by_the_book=by_the_book(precision),
        timing=timing,
    )


def by_the_book(precision: str) -> float | None:
    """TFLOP/s of the processor as it describes itself: cores times clock times the operations of its widest vectors.

    The clock is the one that the system names; a processor that runs faster for a while passes it. None for a GPU,
    and where it does not say.
    """
    flags, facts = processor_flags(), processor_facts()
    a_cycle = next((lanes for flag, lanes in VECTORS.items() if flag in flags), 0)
    if (facts.get("vendor_id"), facts.get("cpu family")) == HALVED:
        a_cycle = min(a_cycle, VECTORS["avx2"])
    hertz = 1e6 * float(facts.get("cpu MHz", 0))
    if torch.cuda.is_available() or not a_cycle * hertz or precision not in FASTER:
        return None
    return cores() * hertz * a_cycle * FASTER[precision] / 1e12


def _product(precision: str, side: int) -> Probe:
    device, operations = own_device(), 2 * side**3
    if precision in FLOATS:
        left, right = (torch.randn(side, side, device=device).to(getattr(torch, precision)) for _ in range(2))
        return _repeated(lambda: torch.mm(left, right), operations)
    left, right = (torch.randint(-8, 8, (side, side), dtype=torch.int8, device=device) for _ in range(2))
    by_columns = right.t() if device == "cuda" else right  # as a GPU's products of eight bits ask for
    if precision == "int8":
        return _repeated(lambda: torch._int_mm(left, by_columns), operations)
    a, b, one = left.to(torch.float8_e4m3fn), by_columns.to(torch.float8_e4m3fn), torch.ones((), device=device)
    multiply: Callable[..., Tensor] = torch._scaled_mm
    return _repeated(lambda: multiply(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16), operations)


def _convolution(precision: str) -> Probe:
    rows, channels, side = TORCH_CONVOLUTION
    dtype = getattr(torch, precision)
    layer = nn.Conv2d(channels, channels, 3, padding=1, bias=False, dtype=dtype)
    layer.weight.data = layer.weight.contiguous(memory_format=torch.channels_last)
    images = torch.randn(rows, channels, side, side).to(dtype).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def convolve() -> Tensor:
        made: Tensor = layer(images)
        return made

    return _repeated(convolve, 2 * rows * side**2 * channels**2 * 9)


def _repeated(run: Callable[[], object], operations: int) -> Probe:
    return Probe(lambda: [run() for _ in range(REPEATS)], REPEATS * operations)


def _openvino(precision: str, rows: int, channels: int, side: int = 0) -> Probe:
    """Some layers in a row, as the backend runs a network: convolutions of images; products where there is no side."""
    import openvino
    from openvino import opset13 as ops

    from fglfast.engine.backends.ov import properties, runner, streams
    from fglfast.engine.exported import UNET

    kernel = (3, 3) if side else ()
    layer: Any = ops.parameter([rows, channels, *([side] * len(kernel))], np.float32)
    shown, weights = layer, torch.randn(channels, channels, *kernel) / (channels * 3 ** len(kernel)) ** 0.5
    for _ in range(REPEATS):
        kept: Any = ops.constant(weights.numpy())
        if precision == "int8":
            low, high = (ops.constant(torch.tensor(value).numpy()) for value in (-RANGE, RANGE))
            layer = ops.fake_quantize(layer, low, high, low, high, 256)
            scale = weights.abs().max() / 127
            kept = ops.multiply(
                ops.convert(ops.constant((weights / scale).round().to(torch.int8).numpy()), "f32"),
                ops.constant(scale.expand(channels, *([1] * (1 + len(kernel)))).numpy()),
            )
        layer = ops.convolution(layer, kept, *([[1, 1]] * 4)) if side else ops.matmul(layer, kept, False, True)
    network = openvino.Model([layer], [shown])
    compiled = openvino.Core().compile_model(network, "CPU", properties(UNET, precision, ranks=1))
    run, images = runner(compiled, rows), torch.randn(rows * streams(), channels, *([side] * len(kernel)))
    each = 2 * channels**2 * (9 * side**2 if side else 1)
    return Probe(lambda: run(images), REPEATS * rows * streams() * each)
