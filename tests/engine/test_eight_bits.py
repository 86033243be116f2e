"""Eight-bit layers in the torch backends, the packages that a precision needs, and the devices that have it."""

import sys

import pytest
import torch
from torch import nn
from torchao.quantization import quant_api
from typer.testing import CliRunner

from fglfast.base.errors import FglError, MissingExtraError, UsageError
from fglfast.engine import attention, backends
from fglfast.engine.backends import ov
from fglfast.engine.backends.eight_bits import to_eight_bits
from fglfast.engine.build import build_engine
from fglfast.engine.exported import UNET, example_inputs
from fglfast.engine.parity import CAPS
from fglfast.engine.recipe import find_recipe
from fglfast.generator.load import load_generator, read_shapes
from fglfast.lab.bench.measure import contenders
from fglfast.verbs.app import app


@pytest.fixture(autouse=True)
def eight_bits(monkeypatch):
    """Let the processor have the instructions for int8, or not."""

    def have(native):
        monkeypatch.setattr(ov, "native_int8", lambda: native)

    have(True)
    return have


@pytest.fixture
def absent(monkeypatch):
    """Make packages look as if they were not installed."""

    def hide(*packages):
        known = backends._version
        monkeypatch.setattr(backends, "_version", lambda name: None if name in packages else known(name))

    return hide


@pytest.fixture
def gpu(monkeypatch):
    """Let PyTorch see a GPU of some compute capability, or none."""

    def see(capability):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)

    return see


@pytest.fixture
def unet(random_mini):
    network = load_generator(random_mini).unet
    attention.install(network, attention.Kernels(attention.candidates("cpu")))
    return network


def relative_error(actual, expected):
    return float((actual - expected).norm() / expected.norm())


def test_an_int8_engine_passes_its_gate_under_a_key_of_its_own(random_mini, torch_recipe, tmp_path):
    plain = build_engine(torch_recipe, random_mini, tmp_path)
    rounded = torch_recipe.model_copy(update={"precision": "int8"})
    built = build_engine(rounded, random_mini, tmp_path)
    assert built.manifest.parity.problem() == "" and built.manifest.parity.unet > 1e-4
    assert built.manifest.parity.text_encoder < 1e-6 and built.key != plain.key
    assert "torchao" in built.manifest.key.versions and "torchao" not in plain.manifest.key.versions
    found = build_engine(rounded, random_mini, tmp_path)
    inputs = example_inputs(built.shapes, 5)[UNET].values()
    assert found.cached and torch.equal(found.networks.denoise(*inputs), built.networks.denoise(*inputs))


def test_only_the_attention_blocks_linear_layers_are_converted(unet):
    count = to_eight_bits(unet, "int8")
    linear = {name: module for name, module in unet.named_modules() if isinstance(module, nn.Linear)}
    converted = {name for name, module in linear.items() if type(module.weight).__name__ == "Int8Tensor"}
    assert converted == {name for name in linear if ".attentions." in name} and len(converted) == count
    assert any(name.endswith("to_qkv") for name in converted) and any("time_emb" in name for name in linear)


@torch.inference_mode()
def test_float8_layers_stay_in_bounds(unet, random_mini, monkeypatch):
    """On the CPU, which multiplies float8 matrices too, only slowly: torchao is told not to look at the device."""
    inputs = example_inputs(read_shapes(random_mini, 32), 2)[UNET]
    inputs = [torch.randn_like(inputs["latents"]), inputs["timestep"], torch.randn_like(inputs["text"])]
    expected = unet(*inputs)
    unet.bfloat16()
    given = [inputs[0].bfloat16(), inputs[1], inputs[2].bfloat16()]
    plain = relative_error(unet(*given), expected)
    monkeypatch.setattr(quant_api, "_check_hardware_support", lambda granularity: None)
    with torch.inference_mode(mode=False):
        to_eight_bits(unet, "float8")
    assert plain < relative_error(unet(*given), expected) < CAPS["float8"]


def test_a_unet_without_such_layers_is_refused():
    odd = nn.ModuleDict({"attentions": nn.ModuleList([nn.Linear(24, 32)]), "other": nn.Linear(32, 32)})
    with pytest.raises(FglError, match="no linear layer"):
        to_eight_bits(odd, "int8")


def test_a_torchao_that_does_not_load_is_told_from_one_that_is_missing(unet, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(MissingExtraError, match="torchao is installed, but does not fit torch 2") as refused:
        to_eight_bits(unet, "int8")
    assert "pip install" in refused.value.hint


@pytest.mark.parametrize(
    ("capability", "reason"), [(None, "PyTorch finds no GPU"), ((8, 6), r"this one has 8\.6"), ((8, 9), "")]
)
@pytest.mark.parametrize("backend", ["torch", "torch-compile", "auto"])
def test_float8_needs_a_gpu_that_has_it(backend, capability, reason, gpu):
    gpu(capability)
    if not reason:
        assert "torch" in backends.chosen(backend, "float8") or backends.chosen(backend, "float8") == [backend]
        return
    with pytest.raises(UsageError, match=f"float8 needs a GPU of compute capability 8.9 or higher, and {reason}"):
        backends.chosen(backend, "float8")


@pytest.fixture
def processor(monkeypatch):
    """One that does, or does not, multiply in bfloat16."""

    def of(native):
        monkeypatch.setattr(backends, "native_bfloat16", lambda: native)
        monkeypatch.setattr(ov, "native_bfloat16", lambda: native)

    return of


@pytest.mark.parametrize(
    ("capability", "native", "expected"),
    [
        (None, False, "float32"),
        (None, True, "bfloat16"),
        ((6, 1), True, "float32"),
        ((7, 5), True, "float16"),
        ((8, 0), False, "bfloat16"),
        ((9, 0), False, "bfloat16"),
    ],
)
def test_auto_is_what_the_device_multiplies_itself(capability, native, expected, gpu, processor):
    gpu(capability)
    processor(native)
    for asked in ("auto", *(find_recipe(name).precision for name in ("mini", "mini-few", "sd15", "sd21-base", "sdxl"))):
        assert backends.resolved("torch", asked) == expected
    assert backends.resolved("openvino", "auto") == ("bfloat16" if native else "float32")
    assert backends.resolved("onnxruntime", "auto") == "float32" or capability
    assert backends.resolved("torch", "float16") == "float16"
    assert "torch" in backends.chosen("auto", "auto") and backends.chosen("torch", "auto") == ["torch"]


def test_a_benchmark_measures_bfloat16_where_the_processor_has_it(gpu, processor):
    gpu(None)
    for native in (True, False):
        processor(native)
        measured = backends.worth_measuring()
        assert ("openvino:bfloat16" in measured) is native
        assert "openvino:float32" in measured and "onnxruntime:bfloat16" not in measured


def test_openvinos_int8_needs_a_processor_that_has_it(eight_bits, gpu):
    gpu(None)
    assert backends.chosen("openvino", "int8") == ["openvino"]
    eight_bits(False)
    for name in ("openvino", "auto"):
        with pytest.raises(UsageError, match="VNNI"):
            backends.chosen(name, "int8")
    assert backends.chosen("openvino", "float32") == ["openvino"]


@pytest.mark.parametrize(("backend", "package"), [("torch", "torchao"), ("openvino", "nncf")])
def test_a_precision_without_its_package_gives_exit_code_3(backend, package, absent, recipe, tmp_path):
    absent(package)
    own = tmp_path / "own.toml"
    own.write_text(f'model = "./none"\nbackend = "{backend}"\nprecision = "int8"\nimage_size = 32')
    result = CliRunner().invoke(app, ["build-engine", "--recipe", str(own)])
    assert result.exit_code == 3 and f"pip install {package}" in result.output
    with pytest.raises(MissingExtraError, match=package):
        contenders(recipe, [f"{backend}:int8"])
    assert backends.chosen(backend, "float32") == [backend]


def test_auto_leaves_out_what_lacks_its_package_or_is_slow(absent, gpu):
    gpu(None)
    assert backends.chosen("auto", "int8") == ["openvino"]
    gpu((9, 0))
    assert backends.chosen("auto", "int8") == ["torch-compile"]
    with pytest.raises(UsageError, match="waits for the host"):
        backends.chosen("torch", "int8")
    absent("torchao")
    assert "torch" in backends.chosen("auto", "bfloat16")
    absent("torchao", "nncf")
    with pytest.raises(MissingExtraError, match="torchao"):
        backends.chosen("auto", "int8")
    gpu(None)
    with pytest.raises(MissingExtraError, match="nncf"):
        backends.chosen("auto", "int8")


def test_which_backends_are_behind(absent, gpu, monkeypatch):
    for machine, behind in (("x86_64", True), ("AMD64", True), ("aarch64", False)):
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        gpu(None)
        assert [backends.behind(name, "float32") for name in ("onnxruntime", "torch")] == [behind] * 2
        assert "onnxruntime:float32" in backends.worth_measuring(), "a benchmark shows how far behind it is"
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert not backends.behind("openvino", "float32") and not backends.behind("torch", "float16")
    gpu((9, 0))
    assert not backends.behind("torch", "float32")
    gpu(None)
    absent("openvino")
    assert not backends.behind("torch", "float32")
