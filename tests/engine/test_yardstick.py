"""What the gate compares with: computed once, before the engine, and tight enough to see a layer that is missing."""

import weakref

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from fglfast.engine import parity, trajectory, yardstick
from fglfast.engine.backends.eager import TorchBackend
from fglfast.engine.build import build_engine
from fglfast.engine.manifest import Key, device_name, read_manifest
from fglfast.engine.parity import CAPS, FLOOR, Errors, allowances, measure
from fglfast.engine.recipe import Build
from fglfast.engine.trajectory import Reference
from fglfast.engine.yardstick import NOTHING, eager_errors, float32_run
from fglfast.generator.load import load_generator, read_shapes
from fglfast.generator.text import resolve_model
from fglfast.sampler.schedule import Sampling


@pytest.fixture
def loaded(monkeypatch):
    """Weak references to every UNet that was loaded for the gate."""
    found, load_modules = [], trajectory.load_modules

    def load(model):
        unet, vae = load_modules(model)
        found.append(weakref.ref(unet))
        return unet, vae

    monkeypatch.setattr(trajectory, "load_modules", load)
    return found


@pytest.fixture
def on_compile(monkeypatch):
    """Have something done when an engine begins to be compiled."""
    compile_ = TorchBackend.compile

    def install(look):
        monkeypatch.setattr(TorchBackend, "compile", lambda *given: look() or compile_(*given))

    return install


def test_five_engines_of_a_model_sample_the_reference_once(random_mini, torch_recipe, tmp_path, loaded, monkeypatch):
    rows, sampled, lost, measure_lost = [], trajectory._sampled, [], yardstick._lost
    monkeypatch.setattr(trajectory, "_sampled", lambda *given: rows.append(len(given[3])) or sampled(*given))
    monkeypatch.setattr(yardstick, "_lost", lambda *given: lost.append(given[2]) or measure_lost(*given))
    for precision, batch in (("float32", 8), ("float32", 2), ("bfloat16", 8), ("bfloat16", 2), ("float32", 4)):
        changes = {"precision": precision, "unet_batch": batch}
        assert not build_engine(torch_recipe.model_copy(update=changes), random_mini, tmp_path).cached
    assert rows == [1] * len(yardstick.PROMPTS), "an image at a time"
    assert lost == [torch.bfloat16] and len(loaded) == 2
    (kept,) = tmp_path.glob("reference-*.safetensors")
    kept.write_bytes(kept.read_bytes()[:1000])
    build_engine(torch_recipe.model_copy(update={"unet_batch": 6}), random_mini, tmp_path)
    assert len(rows) == 2 * len(yardstick.PROMPTS), "what is damaged is computed again"


def test_another_solver_size_or_model_is_another_reference(random_mini, recipe, tmp_path):
    key = Key(weights="w", build=recipe.build("torch", "float32"), versions={"torch": "2"}, device="cpu")
    half = Build(**(key.build.model_dump() | {"precision": "bfloat16", "unet_batch": 4}))
    euler = recipe.sampling.model_copy(update={"scheduler": "flow-euler"})
    large = Build(**(key.build.model_dump() | {"image_size": 64}))
    names = [
        yardstick._digest(yardstick._facts(Reference(random_mini, None, sampling), changed))
        for sampling, changed in (
            (recipe.sampling, key),
            (recipe.sampling.changed(steps=9, guidance_scale=7.0), key.model_copy(update={"build": half})),
            (euler, key),
            (recipe.sampling, key.model_copy(update={"build": large})),
            (recipe.sampling, key.model_copy(update={"weights": "v"})),
            (recipe.sampling, key.model_copy(update={"versions": {"torch": "3"}})),
        )
    ]
    assert names[0] == names[1] and len(set(names)) == 5


@pytest.mark.parametrize("fits", [True, False])
def test_the_float32_model_is_gone_before_an_engine_is_compiled(
    fits, random_mini, torch_recipe, tmp_path, loaded, on_compile, monkeypatch, capsys
):
    """Also where it did not fit into the GPU's memory, whose error holds on to it while it is handled."""
    if not fits:
        sample = Reference.trajectory

        def run_out(reference, *given):
            held = reference._loaded
            if given[-1] == "cuda":
                raise torch.OutOfMemoryError(f"CUDA out of memory, {len(held)} networks held")
            return sample(reference, *given)

        monkeypatch.setattr(yardstick, "own_device", lambda: "cuda")
        monkeypatch.setattr(yardstick, "_lost", lambda *_: NOTHING)
        monkeypatch.setattr(Reference, "trajectory", run_out)
    alive = []
    on_compile(lambda: alive.append([unet() for unet in loaded]))
    built = build_engine(torch_recipe, random_mini, tmp_path)
    assert alive == [[None]] and built.manifest.parity.problem() == ""
    assert ("runs on the CPU" in capsys.readouterr().err) is not fits


def test_a_manifest_says_what_was_measured_and_allowed(random_mini, torch_recipe, tmp_path):
    half = torch_recipe.model_copy(update={"precision": "bfloat16"})
    said = read_manifest(build_engine(half, random_mini, tmp_path).folder).parity
    assert 0 < said.unet <= said.allowed.unet == max(FLOOR, 2.5 * said.eager.unet) < CAPS["bfloat16"]
    assert said.text_encoder < 1e-6 and said.allowed.text_encoder == FLOOR and said.psnr > 20


def test_what_is_allowed_is_a_multiple_of_what_eager_loses_between_a_floor_and_a_cap():
    lost = Errors(text_encoder=0.0, text_projection=1e-3, unet=0.02, vae_decoder=0.9)
    assert allowances(lost, "bfloat16").model_dump() == pytest.approx(
        {"text_encoder": 2e-3, "text_projection": 2.5e-3, "unet": 0.05, "vae_decoder": 0.06}
    )
    assert allowances(lost, "float32").unet == CAPS["float32"] < 0.015  # the least that mini lacks without an attention
    assert allowances(NOTHING, "int8") == Errors(text_encoder=2e-3, text_projection=2e-3, unet=0.15, vae_decoder=0.15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_where_eager_ends_in_no_number_it_loses_all(dtype, random_mini, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(yardstick, "errors", lambda *_: NOTHING.model_copy(update={"unet": float("nan")}))
    reference = Reference(random_mini, read_shapes(random_mini, 32), recipe.sampling)
    assert yardstick._lost(reference, None, dtype, "cpu").unet == 1.0


@pytest.fixture(scope="module", params=["mini", "sd15"])
def judged(request, shallow, tmp_path_factory):
    """A model, its run in two steps of one prompt, and what eager bfloat16 loses of it."""
    model, side = (resolve_model("mini"), 32) if request.param == "mini" else (shallow("sd15"), 64)
    build = Build(backend="torch", precision="bfloat16", image_size=side, unet_batch=2, vae_batch=2)
    key, folder = Key(weights="w", build=build, versions={}, device=device_name()), tmp_path_factory.mktemp("judged")
    reference = Reference(model, read_shapes(model, side), Sampling())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yardstick, "STEPS", 2)
        patch.setattr(yardstick, "PROMPTS", ("a bag",))
        run = float32_run(reference, key, folder)
        return model, run, eager_errors(reference, run, key, folder)


class Nothing(nn.Module):
    def forward(self, rows):
        return torch.zeros_like(rows)


def test_a_missing_attention_is_seen_in_bfloat16(judged, uncompiled):
    """Of a UNet that computes in float32: bfloat16 has lost nothing yet, and it is refused nevertheless."""
    model, run, lost = judged
    generator = load_generator(model)
    networks = uncompiled(generator)
    assert measure(networks, run, lost, "bfloat16").problem() == "" and 1e-3 < lost.unet < 0.024
    attentions = [part for part in generator.unet.modules() if isinstance(part, Attention)]
    for part in attentions[:3]:
        kept = part.to_out[0]
        part.to_out[0] = Nothing()
        assert "UNet relative error" in measure(networks, run, lost, "bfloat16").problem()
        part.to_out[0] = kept


def test_one_garbled_image_of_several_does_not_decide_and_one_that_is_no_number_does():
    expected_B3SS = torch.zeros(3, 3, 4, 4)
    actual_B3SS = expected_B3SS + 2e-3
    actual_B3SS[0] = 1.0
    assert parity._psnr(actual_B3SS, expected_B3SS) == pytest.approx(60, abs=0.1)
    actual_B3SS[0] = torch.nan
    assert parity._psnr(actual_B3SS, expected_B3SS) == -torch.inf
