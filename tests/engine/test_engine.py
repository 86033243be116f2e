import json
import shutil

import numpy as np
import onnxruntime
import openvino
import pytest
import torch

from fglfast.base.errors import BadInputError, FglError, MissingExtraError, UsageError
from fglfast.base.machine import native_bfloat16, native_int8
from fglfast.engine import backends, contest, making, parity
from fglfast.engine.backends import eager, ort, ov
from fglfast.engine.backends.ov_graph import without_sinusoids
from fglfast.engine.build import build_engine
from fglfast.engine.export import export_one
from fglfast.engine.exported import DECODER, TEXT, UNET, Route, example_inputs
from fglfast.engine.manifest import FILE, check_files, read_manifest
from fglfast.engine.networks import in_chunks
from fglfast.engine.parity import Parity, allowances, measure, require
from fglfast.engine.recipe import Recipe, find_recipe, shipped_recipes
from fglfast.engine.yardstick import NOTHING
from fglfast.generator.load import load_generator, read_shapes


@pytest.fixture
def engines(exported):
    return exported(Route(fused=True))


@pytest.mark.parametrize(
    "backend", ["torch", "onnxruntime", "openvino", *{"tensorrt"}.intersection(backends.installed())]
)  # torch-compile has its own test
def test_every_backend_passes_the_gate_and_takes_any_number_of_rows(backend, random_mini, recipe, engines):
    built = build_engine(recipe.model_copy(update={"backend": backend}), random_mini, engines)
    assert built.manifest.parity.problem() == "" and not built.cached
    rows = 11
    latents, text = torch.randn(rows, *built.shapes.latent), torch.randn(rows, 16, built.shapes.projected_width)
    whole = built.networks.denoise(latents, torch.full((rows,), 300.0), text)
    one = built.networks.denoise(latents[4:5], torch.full((1,), 300.0), text[4:5])
    assert whole.shape == latents.shape and torch.allclose(whole[4:5], one, atol=1e-4)
    assert built.networks.decode(latents).shape == (rows, 3, 32, 32)
    found = build_engine(recipe.model_copy(update={"backend": backend}), random_mini, engines)
    assert found.cached and found.key == built.key


@pytest.mark.parametrize(
    ("precision", "native", "lacks"), [("bfloat16", native_bfloat16, "AVX-512 BF16"), ("int8", native_int8, "VNNI")]
)
def test_openvino_passes_the_gate_in_what_the_processor_has(precision, native, lacks, random_mini, recipe, engines):
    asked = recipe.model_copy(update={"precision": precision})
    if not native():
        with pytest.raises(UsageError, match=lacks):
            build_engine(asked, random_mini, engines)
        return
    measured = build_engine(asked, random_mini, engines).manifest.parity
    assert measured.problem() == "" and measured.unet > 1e-4 > measured.text_encoder


def test_a_timestep_is_not_rounded(random_mini, recipe, engines):
    """bfloat16 has no 999: OpenVINO would compute the sinusoids of 1000, or of 868 for 870.3."""
    exact = build_engine(recipe, random_mini, engines)
    network = next(engines.glob("exported-*/unet.xml"))
    core = openvino.Core()
    whole, cut = core.read_model(network), core.read_model(network)
    inputs = {name: tensor.numpy() for name, tensor in example_inputs(exact.shapes, 2)[UNET].items()}
    for model in (whole, cut):
        model.reshape({name: list(array.shape) for name, array in inputs.items()})
    sinusoids, cut = without_sinusoids(cut)
    assert [one.get_any_name() for one in cut.inputs] == ["latents", "sinusoids", "text"]
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    expected, first, then = (core.compile_model(model, "CPU", hint) for model in (whole, sinusoids, cut))
    for timestep in (999.0, 870.3):
        inputs["timestep"] = np.full(2, timestep, np.float32)
        made = first([inputs["timestep"]])[0]
        for wave in (np.sin(timestep), np.cos(timestep)):  # of the highest frequency, 1
            assert np.abs(made[0] - wave).min() < 1e-4
        given = [inputs["latents"], made, inputs["text"]]
        np.testing.assert_allclose(then(given)[0], expected(list(inputs.values()))[0], atol=1e-5)


def test_openvino_is_asked_for_bfloat16_where_images_are_made():
    hints = {name: ov.properties(name, "bfloat16", 1)["INFERENCE_PRECISION_HINT"] for name in (TEXT, UNET, DECODER)}
    assert hints == {TEXT: "f32", UNET: "bf16", DECODER: "bf16"}
    assert ov.properties(UNET, "int8", 2)["INFERENCE_PRECISION_HINT"] == "f32"


def test_a_compiled_decoder_knows_the_latents_mean_and_deviation(random_mini, tmp_path):
    """Exported, not only in PyTorch."""
    mean, std = [0.5, -1.0] * 4, [2.0, 0.5, 1.5, 3.0] * 2  # by channel
    model = tmp_path / "model"
    shutil.copytree(random_mini, model)
    config = model / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"latents_mean": mean, "latents_std": std}))
    decoder, shapes = load_generator(model).decoder, read_shapes(model, 32)
    export_one(decoder, example_inputs(shapes, 2)[DECODER], tmp_path / DECODER, Route())
    session = onnxruntime.InferenceSession(tmp_path / DECODER, providers=["CPUExecutionProvider"])
    latents = torch.randn(3, *shapes.latent)
    mean_C11, std_C11 = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (mean, std))
    with torch.no_grad():
        expected = decoder.vae.decode(latents * std_C11 / decoder.vae.config.scaling_factor + mean_C11).sample
    found = torch.from_numpy(session.run(None, {"latents": latents.numpy()})[0])
    assert torch.allclose(found, expected, atol=1e-3)


def test_a_changed_recipe_or_model_is_another_engine(engine, random_mini, recipe, torch_recipe, engines):
    assert build_engine(recipe.model_copy(update={"vae_batch": 6}), random_mini, engines).key != engine.key
    other = engines / "other"
    shutil.copytree(random_mini, other)
    config = json.loads((other / "unet" / "config.json").read_text())
    (other / "unet" / "config.json").write_text(json.dumps({**config, "_note": "changed"}))
    assert build_engine(torch_recipe, other, engines).key != build_engine(torch_recipe, random_mini, engines).key
    resampled = recipe.model_copy(update={"sampling": recipe.sampling.model_copy(update={"steps": 9})})
    assert build_engine(resampled, random_mini, engine.folder.parent).key == engine.key


@pytest.fixture
def even(monkeypatch):
    """A machine of which nobody knows who is behind."""
    monkeypatch.setattr(contest, "is_behind", lambda *_: False)


def test_auto_measures_once_and_stays(random_mini, recipe, engines, capsys, even):
    auto = recipe.model_copy(update={"backend": "auto"})
    first = build_engine(auto, random_mini, engines)
    choice = next(engines.glob("auto-*.json"))
    seconds = json.loads(choice.read_text())
    names = {f"{backend}:float32" for backend in backends.chosen("auto", "float32")}
    assert set(seconds) == names and all(value > 0 for value in seconds.values())
    assert min(seconds, key=seconds.get) == f"{first.build.backend}:float32" and not first.cached
    assert [path.parent for path in engines.glob("*/manifest.json")] == [first.folder], "the others are not kept"
    choice.write_text(json.dumps(dict.fromkeys(seconds, 2.0) | {"torch:float32": 1.0}))
    assert build_engine(auto, random_mini, engines).build.backend == "torch"
    assert "fastest of those tried" in capsys.readouterr().err


def broken(*_):
    raise RuntimeError("no kernel image\nand more")


def broken_otherwise(*_):
    raise MemoryError("another reason")


def test_auto_goes_on_without_a_backend_that_fails(random_mini, recipe, engines, capsys, monkeypatch):
    monkeypatch.setattr(backends, "chosen", lambda *_: ["onnxruntime", "torch"])
    monkeypatch.setattr(ort.OnnxRuntimeBackend, "compile", broken)
    auto = recipe.model_copy(update={"backend": "auto"})
    for _ in range(2):
        assert build_engine(auto, random_mini, engines).build.backend == "torch"
    said = capsys.readouterr().err
    assert said.count("backend onnxruntime:float32 is left out: no kernel image\n") == 1 and "and more" not in said
    assert set(json.loads(next(engines.glob("auto-*.json")).read_text())) == {"torch:float32"}


@pytest.mark.parametrize("works", [True, False])
def test_who_is_behind_is_tried_where_all_others_fail(works, random_mini, recipe, engines, capsys, monkeypatch):
    monkeypatch.setattr(backends, "chosen", lambda *_: ["torch", "openvino"])
    monkeypatch.setattr(contest, "is_behind", lambda name, _: name == "torch")
    if not works:
        monkeypatch.setattr(ov.OpenVinoBackend, "compile", broken)
    built = build_engine(recipe.model_copy(update={"backend": "auto"}), random_mini, engines)
    tried = {"openvino" if works else "torch"}
    assert {built.build.backend} == tried and "known to be slower" in capsys.readouterr().err
    assert set(json.loads(next(engines.glob("auto-*.json")).read_text())) == {f"{name}:float32" for name in tried}


def test_the_next_takes_the_place_of_a_winner_that_the_gate_refuses(
    random_mini, recipe, engines, capsys, monkeypatch, even
):
    """Only what would be used is gated: of three the fastest, which is refused, and the second."""
    names, gated = ["onnxruntime", "torch", "openvino"], []
    times = dict(zip(names, (0.1, 0.3, 0.2), strict=True))
    timed = iter(times.values())

    def refuse_the_first(*given):
        gated.append(measure(*given))
        return gated[-1].model_copy(update={"psnr": 3.0}) if len(gated) == 1 else gated[-1]

    monkeypatch.setattr(backends, "chosen", lambda *_: names)
    monkeypatch.setattr(contest, "seconds_of", lambda *_: next(timed))
    monkeypatch.setattr(making, "measure", refuse_the_first)
    built = build_engine(recipe.model_copy(update={"backend": "auto"}), random_mini, engines)
    assert built.build.backend == "openvino" and not built.cached and len(gated) == 2
    said = capsys.readouterr().err
    assert "backend onnxruntime:float32 is left out" in said and "PSNR" in said
    remembered = json.loads(next(engines.glob("auto-*.json")).read_text())
    assert remembered == {"torch:float32": 0.3, "openvino:float32": 0.2}
    assert [path.parent for path in engines.glob("*/manifest.json")] == [built.folder]
    assert not list(engines.glob(".*building*"))


def test_where_no_backend_works_the_first_reason_is_given(random_mini, recipe, engines, monkeypatch):
    monkeypatch.setattr(backends, "chosen", lambda *_: ["onnxruntime", "torch"])
    monkeypatch.setattr(ort.OnnxRuntimeBackend, "compile", broken)
    monkeypatch.setattr(eager.TorchBackend, "load", broken_otherwise)
    with pytest.raises(RuntimeError, match="no kernel image"):
        build_engine(recipe.model_copy(update={"backend": "auto"}), random_mini, engines)
    assert not list(engines.glob("auto-*.json"))


def test_a_damaged_engine_is_rebuilt(random_mini, recipe, engines, capsys):
    built = build_engine(recipe, random_mini, engines)
    blob = next(built.folder.glob("unet*"))
    blob.write_bytes(blob.read_bytes()[:-1])
    with pytest.raises(BadInputError):
        check_files(built.folder, read_manifest(built.folder))
    assert not build_engine(recipe, random_mini, engines).cached
    assert "rebuilding" in capsys.readouterr().err
    (built.folder / FILE).write_text("{}")
    assert not build_engine(recipe, random_mini, engines).cached


def test_a_failed_gate_leaves_nothing(random_mini, recipe, engines, monkeypatch):
    monkeypatch.setattr(parity, "FLOOR", 1e-12)
    with pytest.raises(FglError, match="parity gate"):
        build_engine(recipe, random_mini, engines)
    assert not [path for path in engines.iterdir() if path.is_dir() and not path.name.startswith("exported-")]


def test_the_gate_refuses_what_is_not_a_number():
    allowed = allowances(NOTHING, "float32")
    for change, said in (({"unet": float("nan")}, "UNet"), ({"psnr": -float("inf")}, "PSNR"), ({"psnr": 19.9}, "PSNR")):
        measured = NOTHING.model_dump() | {"psnr": 90.0} | change
        with pytest.raises(FglError, match=said):
            require(Parity(**measured, eager=NOTHING, allowed=allowed), "engine")


def test_a_missing_backend_names_the_install_command(monkeypatch):
    monkeypatch.setattr(backends, "_version", lambda package: None)
    with pytest.raises(MissingExtraError) as missing:
        backends.find_backend("openvino")
    assert missing.value.hint == "pip install 'fglfast[cpu]'" and missing.value.exit_code == 3
    with pytest.raises(UsageError):
        backends.find_backend("abacus")


@pytest.mark.parametrize("rows", [1, 3, 4, 9])
def test_chunks_have_one_size_and_padding_is_cut(rows):
    seen = []

    def double(values):
        seen.append(len(values))
        return 2 * values

    values = torch.arange(float(rows))
    assert torch.equal(in_chunks(double, 4)(values), 2 * values) and set(seen) == {4}


def test_recipes(tmp_path):
    assert "mini" in shipped_recipes() and find_recipe("mini").model == "mini"
    path = tmp_path / "own.toml"
    path.write_text(find_recipe("mini").to_toml())
    assert find_recipe(str(path)) == find_recipe("mini")
    path.write_text('model = "./model"\nlora = "./style.safetensors"\nimage_size = 32')
    moved = find_recipe(str(path))
    assert (moved.model, moved.lora) == (str(tmp_path / "model"), str(tmp_path / "style.safetensors"))
    path.write_text('model = "./model"\nlora = "some/adapter"\nimage_size = 32')
    assert find_recipe(str(path)).lora == "some/adapter"
    for text in ("image_size = 32\ncolour = 1", "image_size = 33", "image_size ="):
        path.write_text(text)
        with pytest.raises(BadInputError, match=r"own\.toml"):
            Recipe.from_toml(path)
    with pytest.raises(BadInputError, match="minni"):
        find_recipe("minni")
