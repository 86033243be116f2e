"""Our attention processor against diffusers' own, and the choice of kernels."""

import copy
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest
import torch
from diffusers.models.attention_processor import Attention

from fglfast.engine.attention import (
    ROUNDS,
    BMHKProcessor,
    Kernels,
    candidates,
    install,
    measure,
    sdpa,
    xformers_attention,
    xformers_refusal,
)
from fglfast.generator.load import load_generator
from fglfast.generator.text import resolve_model


def tensors(rows=4, keys=6, dtype=torch.float32):
    return tuple(torch.randn(2, n, 3, 8, dtype=dtype) for n in (rows, keys, keys))


@pytest.fixture(scope="module")
def networks(narrow):
    """UNet, decoder and columns of the projected text of a model by name, float32."""

    def load(name):
        generator = load_generator(resolve_model("mini", None, None) if name == "mini" else narrow(name))
        return generator.unet, generator.decoder, generator.projection.width

    return load


@pytest.mark.parametrize("name", ["mini", "sd15", "sd21-base", "sdxl"])
@torch.inference_mode()
def test_every_attention_module_computes_what_diffusers_does(name, networks):
    torch.manual_seed(0)
    for theirs in networks(name)[:2]:
        ours = copy.deepcopy(theirs)
        modules = [module for module in theirs.modules() if isinstance(module, Attention)]
        assert install(ours, Kernels(candidates("cpu"))) == len(modules)
        twins = [module for module in ours.modules() if isinstance(module, Attention)]
        assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
        for module, twin in zip(modules, twins, strict=True):
            assert isinstance(twin.processor, BMHKProcessor)
            hidden = torch.randn(2, 16, module.query_dim)
            if module.group_norm is not None:
                hidden = torch.randn(2, module.query_dim, 4, 4).contiguous(memory_format=torch.channels_last)
            text = torch.randn(2, 7, module.to_v.stop) if module.is_cross_attention else None
            expected, got = module(hidden, encoder_hidden_states=text), twin(hidden, encoder_hidden_states=text)
            assert got.shape == expected.shape and torch.allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_modules_with_more_than_attention_keep_their_processor():
    normed = torch.nn.Sequential(Attention(8, heads=2, dim_head=4, qk_norm="layer_norm"))
    stock = normed[0].processor
    assert install(normed, Kernels(candidates("cpu"))) == 0 and normed[0].processor is stock


def test_the_fastest_kernel_that_works_is_taken_and_remembered():
    calls = []

    def slow(*qkv):
        calls.append("slow")
        for _ in range(200):
            sdpa(*qkv)
        return sdpa(*qkv)

    def fast(*qkv):
        calls.append("fast")
        return sdpa(*qkv)

    def broken(*qkv):
        raise NotImplementedError("no kernel for these tensors")

    among = {"broken": broken, "slow": slow, "fast": fast}
    kernels = Kernels(among)
    few, many = tensors(), tensors(rows=9)
    assert torch.equal(kernels(*few), sdpa(*few)) and calls[-1] == "fast"
    assert set(kernels.seconds) == {"4x6x3x8 float32"} and set(kernels.seconds["4x6x3x8 float32"]) == {"slow", "fast"}
    kernels(*many)
    assert "9x6x3x8 float32" in kernels.seconds
    calls.clear()
    kernels(*few)
    remembered = Kernels(among, {"4x6x3x8 float32": {"slow": 1.0, "fast": 2.0}})
    remembered(*few)
    assert calls == ["fast", "slow"] and remembered.seconds == {"4x6x3x8 float32": {"slow": 1.0, "fast": 2.0}}


def test_where_no_kernel_works_pytorch_decides():
    kernels = Kernels({"cudnn": candidates("cuda")["cudnn"]})
    qkv = tensors()
    assert torch.equal(kernels(*qkv), sdpa(*qkv)) and kernels.seconds == {"4x6x3x8 float32": {}}


def test_memory_that_runs_out_is_no_verdict_on_a_kernel():
    def full(*qkv):
        raise torch.OutOfMemoryError("CUDA out of memory")

    kernels = Kernels({"efficient": full})
    with pytest.raises(torch.OutOfMemoryError):
        kernels(*tensors())
    assert kernels.seconds == {} and set(measure({"math": full, "flash": sdpa}, *tensors())) == {"flash"}


def test_a_short_kernel_is_timed_over_many_calls_and_a_long_one_alone():
    calls = {"short": 0, "long": 0}

    def of(name, seconds):
        def kernel(*qkv):
            calls[name] += 1
            time.sleep(seconds)
            return sdpa(*qkv)

        return kernel

    found = measure({"short": of("short", 0.0), "long": of("long", 0.02)}, *tensors())
    assert calls["long"] == 2 + ROUNDS and calls["short"] > 3 * ROUNDS
    assert 0 < found["short"] < 0.01 < found["long"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_this_processor_has_flash_and_math(dtype):
    qkv = tensors(dtype=dtype)
    among = candidates("cpu")
    assert set(measure(among, *qkv)) == {"flash", "math"}
    for kernel in among.values():
        assert torch.allclose(kernel(*qkv).float(), sdpa(*(t.float() for t in qkv)), atol=2e-2)


@pytest.fixture
def xformers(monkeypatch):
    """A module in xformers' place that refuses what xformers' kernels refuse, and copies; returns what it was given."""
    given = []

    def memory_efficient_attention(query, key, value):
        assert query.dim() == key.dim() == value.dim() == 4 and key.shape == value.shape
        assert query.shape[::2] == key.shape[::2] and query.shape[3] == key.shape[3]
        assert all(tensor.stride(-1) == 1 for tensor in (query, key, value))
        given.append((query, key, value))
        return sdpa(query, key, value).contiguous()

    package, ops = ModuleType("xformers"), ModuleType("xformers.ops")
    package.ops, ops.memory_efficient_attention = ops, memory_efficient_attention
    monkeypatch.setitem(sys.modules, "xformers", package)
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    return given


@torch.inference_mode()
def test_an_xformers_of_another_torch_is_named_and_left_out(xformers, monkeypatch):
    package = sys.modules["xformers"]
    package._cpp_lib = SimpleNamespace(_cpp_library_load_exception=None)
    assert xformers_refusal() == "" and "xformers" in candidates("cuda") and "xformers" not in candidates("cpu")
    said = (
        "xFormers can't load C++/CUDA extensions. xFormers was built for:\n    PyTorch 2.10.0+cu128 (you have 2.11.0)\n"
    )
    package._cpp_lib._cpp_library_load_exception = ImportError(said)
    assert xformers_refusal() == "it was built for PyTorch 2.10.0+cu128 (you have 2.11.0)"
    assert "xformers" not in candidates("cuda")
    monkeypatch.setitem(sys.modules, "xformers", None)
    assert xformers_refusal().startswith("not installed")


def test_xformers_gets_views_of_the_fused_projections(xformers, networks):
    *parts, width = networks("sd15")
    for theirs in parts:
        ours = copy.deepcopy(theirs)
        install(ours, Kernels({"xformers": xformers_attention}))
        latents = torch.randn(2, 4, 8, 8)
        inputs = (latents, torch.full((2,), 500.0), torch.randn(2, 77, width))[: 3 if hasattr(ours, "unet") else 1]
        assert torch.allclose(ours(*inputs), theirs(*inputs), rtol=1e-4, atol=1e-4) and xformers
        for query, key, value in xformers:
            shared = {tensor.untyped_storage().data_ptr() for tensor in (query, key, value)}
            assert len(shared) == (1 if query.shape[1] == key.shape[1] else 2)
        xformers.clear()


@torch.inference_mode()
def test_xformers_is_one_operator_of_a_compiled_graph(xformers, networks, traced):
    unet, _, width = networks("sdxl")
    inputs = (torch.randn(2, 4, 8, 8), torch.full((2,), 500.0), torch.randn(2, 78, width))
    expected = unet(*inputs)
    install(unet, Kernels({"xformers": xformers_attention}))
    unet(*inputs)  # the shapes are measured outside the graph
    compiled = torch.compile(unet, backend=traced.backend, fullgraph=True, dynamic=False)
    assert torch.allclose(compiled(*inputs), expected, rtol=1e-4, atol=1e-4)
    operators = [str(node.target) for node in traced[0].graph.nodes]
    assert sum("fglfast.xformers_attention" in operator for operator in operators) > 4 and len(traced) == 1
    torch.library.opcheck(xformers_attention, tensors(), test_utils=("test_schema", "test_faketensor"))
