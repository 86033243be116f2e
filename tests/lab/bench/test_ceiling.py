"""The ceiling: whatever is fastest, in that precision, with operations that are what the work is."""

import numpy as np
import openvino
import pytest
import torch

from fglfast.base.machine import native_int8
from fglfast.base.timing import Timing
from fglfast.lab.bench import ceiling
from fglfast.lab.bench.ceiling import Probe, Work, by_the_book, highest, probes
from fglfast.lab.bench.operations import count


def timed(*seconds):
    return Timing.of(seconds)


def test_the_fastest_round_of_all_that_was_tried_is_the_ceiling():
    tried = {
        "slow": (Probe(lambda: None, 10**12), timed(2.0, 3.0, 4.0)),
        "fast": (Probe(lambda: None, 3 * 10**12), timed(1.5, 2.0, 9.0)),
    }
    found = highest("float32", tried, {"engine": Work(10, 10**11, timed(1.0))})
    assert (found.by, found.tflops, found.precision) == ("fast", 2.0, "float32")


def test_no_share_is_above_one():
    tried = {"product": (Probe(lambda: None, 10**12), timed(1.0))}
    works = {"a": Work(3, 10**12, timed(2.0)), "b": Work(1, 10**11, timed(1.0))}
    found = highest("int8", tried, works)
    assert found.by == "a" and max(work.tflops / found.tflops for work in works.values()) == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_every_probe_runs_and_counts_what_it_does(precision, monkeypatch):
    for name, size in (
        ("CPU_SIDE", 32),
        ("EMULATED_SIDE", 16),
        ("TORCH_CONVOLUTION", (2, 8, 4)),
        ("OPENVINO_CONVOLUTION", (1, 8, 4)),
        ("OPENVINO_PRODUCT", (2, 8)),
    ):
        monkeypatch.setattr(ceiling, name, size)
    found = probes(precision)
    assert {"PyTorch product", "OpenVINO convolution", "OpenVINO product"} <= found.keys()
    for probe in found.values():
        probe.run()
    multiplied = 2 * 32**3 if precision in ("float32", "int8") or "PyTorch convolution" in found else 2 * 16**3
    assert found["PyTorch product"].operations == ceiling.REPEATS * multiplied
    layer = torch.nn.Conv2d(8, 8, 3, padding=1, bias=False)
    if "PyTorch convolution" in found:
        assert found["PyTorch convolution"].operations == ceiling.REPEATS * count(layer, torch.zeros(2, 8, 4, 4))
    chunks = found["OpenVINO convolution"].operations / ceiling.REPEATS / count(layer, torch.zeros(1, 8, 4, 4))
    assert chunks == int(chunks) >= 1, "a chunk a core"


@pytest.mark.skipif(not native_int8(), reason="OpenVINO may do as it likes without such instructions")
def test_eight_bits_are_multiplied_in_eight_bits(monkeypatch):
    """OpenVINO's own report of a layer says in which type it ran."""
    compiled = []
    whole = openvino.Core.compile_model
    monkeypatch.setattr(
        openvino.Core, "compile_model", lambda self, *args: compiled.append(whole(self, *args)) or compiled[-1]
    )
    monkeypatch.setattr(ceiling, "OPENVINO_CONVOLUTION", (1, 64, 8))
    ceiling.probes("int8")["OpenVINO convolution"].run()
    kinds = [
        str(op.get_rt_info()["runtimePrecision"].astype(str))
        for op in compiled[0].get_runtime_model().get_ops()
        if str(op.get_rt_info()["layerType"].astype(str)) == "Convolution"
    ]
    assert len(kinds) == ceiling.REPEATS and set(kinds) <= {"i8", "u8"}


@pytest.mark.parametrize(
    ("flags", "vendor", "family", "a_cycle"),
    [
        ("avx2 avx512f avx512_bf16", "AuthenticAMD", "26", 64),
        ("avx2 avx512f", "AuthenticAMD", "25", 32),
        ("avx2", "GenuineIntel", "6", 32),
        ("sse2", "GenuineIntel", "6", None),
    ],
)
def test_the_processor_describes_itself(flags, vendor, family, a_cycle, monkeypatch):
    facts = {"vendor_id": vendor, "cpu family": family, "cpu MHz": "2500.0", "flags": flags}
    monkeypatch.setattr(ceiling, "processor_facts", lambda: facts)
    monkeypatch.setattr(ceiling, "processor_flags", lambda: frozenset(flags.split()))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    found = by_the_book("bfloat16")
    assert found == (a_cycle and pytest.approx(2 * 2.5e9 * a_cycle * 2 / 1e12))
    assert by_the_book("float16") is None and np.isclose(by_the_book("int8") or 0, 2 * (found or 0))
