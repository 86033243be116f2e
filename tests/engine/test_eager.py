"""The torch backends: precision, remembered kernels, memory, compilation."""

import json
from functools import partial

import pytest
import torch
from diffusers import UNet2DConditionModel
from typer.testing import CliRunner

from fglfast.base.errors import FglError, UsageError
from fglfast.engine import attention, backends
from fglfast.engine.backends import autotuned, compiled
from fglfast.engine.backends.eager import ATTENTION
from fglfast.engine.build import build_engine
from fglfast.engine.networks import in_chunks_that_fit
from fglfast.generator.load import UNetPart, load_generator
from fglfast.generator.text_projection import take_projection
from fglfast.verbs.app import app


def example(shapes, rows):
    return (
        torch.randn(rows, *shapes.latent),
        torch.full((rows,), 999.0),
        torch.randn(rows, shapes.text_length, shapes.projected_width),
    )


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_passes_its_gate_and_not_that_of_float32(precision, random_mini, torch_recipe, tmp_path):
    asked = torch_recipe.model_copy(update={"precision": precision})
    built = build_engine(asked, random_mini, tmp_path)
    parity = built.manifest.parity
    assert parity.problem() == "" and parity.text_encoder < 1e-6 and parity.unet > 1e-5
    predicted = built.networks.denoise(*example(built.shapes, 3))
    assert predicted.dtype == torch.float32 and predicted.is_contiguous()
    assert built.networks.decode(predicted).dtype == torch.float32
    assert built.key != build_engine(torch_recipe, random_mini, tmp_path).key
    assert all(name.endswith(precision) for name in json.loads((built.folder / ATTENTION).read_text()))


def test_sdxl_in_float16_decodes_in_float32(narrow, torch_recipe, tmp_path):
    half = torch_recipe.model_copy(update={"precision": "float16", "image_size": 64})
    built = build_engine(half, narrow("sdxl"), tmp_path)
    assert built.manifest.parity.vae_decoder < 1e-5 < built.manifest.parity.unet


def test_a_precision_that_a_backend_has_not_is_refused_before_any_work(random_mini, recipe, tmp_path):
    with pytest.raises(UsageError, match="openvino has no precision float16") as refused:
        build_engine(recipe.model_copy(update={"precision": "float16"}), random_mini, tmp_path / "engines")
    assert refused.value.hint == "choose one of: torch, torch-compile, torch-autotune, onnxruntime, tensorrt"
    assert not (tmp_path / "engines").exists()
    assert "torch" in backends.chosen("auto", "bfloat16") and "openvino" not in backends.chosen("auto", "float16")
    own = tmp_path / "own.toml"
    own.write_text('model = "./none"\nbackend = "onnxruntime"\nprecision = "float16"\nimage_size = 32')
    result = CliRunner().invoke(app, ["build-engine", "--recipe", str(own)])
    assert result.exit_code == 2 and "float16" in result.output


def test_auto_compiles_only_for_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch-compile" not in backends.chosen("auto", "float32")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    chosen = backends.chosen("auto", "float32")
    assert "torch-compile" in chosen and "torch-autotune" in backends.installed() and "torch-autotune" not in chosen


def test_kernels_are_measured_once_and_stay(random_mini, torch_recipe, tmp_path, monkeypatch):
    built = build_engine(torch_recipe, random_mini, tmp_path)
    inputs = example(built.shapes, 5)
    expected = built.networks.denoise(*inputs)
    monkeypatch.setattr(attention, "measure", lambda *_: pytest.fail("measured again"))
    found = build_engine(torch_recipe, random_mini, tmp_path)
    assert found.cached and torch.equal(found.networks.denoise(*inputs), expected)


class FullGpu:
    """A function that runs out of memory above some rows."""

    def __init__(self, fits):
        self.fits, self.tried = fits, []

    def __call__(self, values):
        self.tried.append(len(values))
        if len(values) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 2 * values


def test_out_of_memory_steps_back_says_so_once_and_goes_on(capsys):
    gpu, values = FullGpu(fits=3), torch.arange(10.0)
    run = in_chunks_that_fit(gpu, 8, "unet")
    assert torch.equal(run(values), 2 * values) and gpu.tried == [8, 4, 2, 2, 2, 2, 2]
    gpu.tried.clear()
    assert torch.equal(run(values), 2 * values) and set(gpu.tried) == {2}
    assert capsys.readouterr().err == "unet: out of memory at 8 rows a pass; going on with 2\n"


def test_one_row_that_does_not_fit_is_an_error():
    with pytest.raises(FglError, match="vae_decoder: out of memory at one row"):
        in_chunks_that_fit(FullGpu(fits=0), 4, "vae_decoder")(torch.arange(3.0))


def test_an_engine_is_built_on_a_gpu_that_is_too_small(random_mini, torch_recipe, tmp_path, monkeypatch, capsys):
    plain = UNetPart.forward

    def forward(self, latents, timestep, text):
        if len(latents) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, latents, timestep, text)

    monkeypatch.setattr(UNetPart, "forward", forward)
    built = build_engine(torch_recipe, random_mini, tmp_path)
    assert built.networks.denoise(*example(built.shapes, 9)).shape[0] == 9
    assert "unet: out of memory at 8 rows a pass; going on with 4" in capsys.readouterr().err


def test_on_a_gpu_the_compiler_keeps_graphs_and_one_backend_tunes_its_kernels(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda network, **options: asked.append(options))
    for backend, device in ((compiled, "cpu"), (compiled, "cuda"), (autotuned, "cuda")):
        backend.BACKEND.function(None, device, torch.float32)
    assert [options["mode"] for options in asked] == ["default", "reduce-overhead", "max-autotune"]
    assert torch._inductor.list_mode_options("reduce-overhead") == {"triton.cudagraphs": True}
    tuned = torch._inductor.list_mode_options("max-autotune")
    assert tuned["max_autotune"] and tuned["coordinate_descent_tuning"] and tuned["triton.cudagraphs"]


@pytest.fixture
def graphs(monkeypatch, traced):
    """The backend's graphs are traced alone: without the C++ compiler, which takes half a minute."""
    trace = partial(torch.compile, backend=traced.backend)
    monkeypatch.setattr(torch, "compile", lambda *given, mode, **options: trace(*given, **options))
    return traced


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_the_compiled_backend_passes_the_gate(precision, graphs, random_mini, recipe, tmp_path):
    asked = recipe.model_copy(update={"backend": "torch-compile", "precision": precision})
    built = build_engine(asked, random_mini, tmp_path)
    assert built.manifest.parity.problem() == "" and not built.cached and graphs
    assert (built.folder / ATTENTION).exists() and built.networks.denoise(*example(built.shapes, 11)).shape[0] == 11
    found = build_engine(asked, random_mini, tmp_path)
    assert found.cached and found.key == built.key


@torch.inference_mode()
def test_the_cpp_compiler_compiles_a_unet():
    sizes = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    sizes |= {"block_out_channels": (32,), "layers_per_block": 1, "cross_attention_dim": 32, "attention_head_dim": 2}
    whole = UNet2DConditionModel(**sizes).eval().to(memory_format=torch.channels_last)
    inputs = torch.randn(2, 4, 8, 8), torch.full((2,), 500.0), torch.randn(2, 16, 32)
    expected = whole(*inputs).sample
    unet, inputs = UNetPart(whole), (*inputs[:2], take_projection(whole)(inputs[2]))
    attention.install(unet, attention.Kernels(attention.candidates("cpu")))
    unet(*inputs)
    run = backends.find_backend("torch-compile").function(unet, "cpu", torch.float32)
    assert torch.allclose(run(*inputs), expected, rtol=1e-4, atol=1e-4)


def test_a_compiled_network_is_compiled_once_whatever_it_is_given(graphs, random_mini):
    unet = load_generator(random_mini).unet.to(memory_format=torch.channels_last)
    run = backends.find_backend("torch-compile").function(unet, "cpu", torch.float32)
    latents, timestep, text = torch.randn(2, 8, 8, 8), torch.full((2,), 700.0), torch.randn(1, 16, 256)
    first = run(latents, timestep, text.expand(2, -1, -1))
    with torch.inference_mode():
        strided = latents.to(memory_format=torch.channels_last).double()
        again = run(strided, timestep[:1].expand(2), text.repeat(2, 1, 1))
    assert torch.equal(first, again) and len(graphs) == 1
    assert first.data_ptr() != again.data_ptr() and torch.allclose(first, unet(latents, timestep, text.repeat(2, 1, 1)))


def test_a_compiler_that_fails_is_one_clear_line(random_mini, recipe, tmp_path, monkeypatch):
    def broken(network, **options):
        def run(*inputs):
            raise RuntimeError("no C++ compiler\nand a long trace")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(FglError, match=r"^torch.compile failed on the UNet: no C\+\+ compiler$") as failed:
        build_engine(recipe.model_copy(update={"backend": "torch-compile"}), random_mini, tmp_path)
    assert "--backend torch" in failed.value.hint
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
