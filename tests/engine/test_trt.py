"""The TensorRT backend against a fake that checks every call and computes with ONNX Runtime. Nothing runs on a GPU."""

import json
import math
import shutil
from types import SimpleNamespace

import fake_cuda
import fake_tensorrt
import onnx
import pytest
import torch
from binding_checks import State

from fglfast.base.errors import FglError, UsageError
from fglfast.engine import backends, contest, making, manifest
from fglfast.engine.backends import trt as backend
from fglfast.engine.backends import trt_messages
from fglfast.engine.backends.trt_messages import log
from fglfast.engine.build import build_engine
from fglfast.engine.exported import DECODER, PROJECTION, TEXT, UNET, Route, export_folder, link
from fglfast.engine.fusions import Exported
from fglfast.engine.parity import measure
from fglfast.engine.recipe import Build
from fglfast.generator.shapes import Shapes

ROUTES = [Route(opset=opset, precision=precision) for opset in (18, 22) for precision in ("float32", "float16")]
ROUTES.append(Route(opset=22, precision="bfloat16"))


@pytest.fixture
def engines(exported):
    return exported(*ROUTES)


@pytest.fixture(scope="module", autouse=True)
def before_a_gpu_is_pretended(exports):
    for route in ROUTES:
        exports(route)


NETWORKS = (TEXT, PROJECTION, UNET, DECODER)


def test_both_versions_pass_the_gate_and_take_any_number_of_rows(tensorrt, trt_recipe, random_mini, engines):
    built = build_engine(trt_recipe, random_mini, engines)
    assert built.manifest.parity.problem() == "" and not built.cached
    rows = 11
    latents, text = torch.randn(rows, *built.shapes.latent), torch.randn(rows, 16, 256)
    timesteps = torch.arange(float(rows)) * 90
    whole = built.networks.denoise(latents, timesteps, text)
    one = built.networks.denoise(latents[9:10], timesteps[9:10], text[9:10])
    assert whole.shape == latents.shape and torch.allclose(whole[9:10], one, atol=1e-4)
    assert built.networks.decode(latents).shape == (rows, 3, 32, 32)
    flags = 0 if tensorrt.__version__ >= "11" else 1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert State.called("Builder.create_network") == [[flags]] * 4
    assert [0] not in State.called("IExecutionContext.execute_async_v3")


def test_a_pass_runs_between_the_callers_work_on_a_stream_of_its_own(tensorrt_11, trt_recipe, random_mini, engines):
    denoise = build_engine(trt_recipe, random_mini, engines).networks.denoise
    fake_cuda.EVENTS.clear()
    denoise(torch.zeros(8, 8, 8, 8), torch.zeros(8), torch.zeros(8, 16, 256))
    number = fake_cuda.EVENTS[0].split()[0]
    assert number != "0"
    assert " ".join(fake_cuda.EVENTS) == f"{number} waits for 0 replay on {number} 0 waits for {number}"


def test_nothing_is_allocated_or_bound_after_loading(tensorrt_11, trt_recipe, random_mini, engines):
    networks = build_engine(trt_recipe, random_mini, engines).networks
    State.calls.clear()
    inputs = torch.randn(8, 8, 8, 8), torch.full((8,), 500.0), torch.randn(8, 16, 256)
    first = networks.denoise(*inputs)
    kept = first.clone()
    second = networks.denoise(inputs[0] + 1, *inputs[1:])
    assert not State.calls and torch.equal(first, kept) and not torch.allclose(first, second)


def test_where_a_graph_cannot_be_captured_it_runs_without(tensorrt_11, trt_recipe, random_mini, engines, capsys):
    State.fail.add("capture")
    built = build_engine(trt_recipe, random_mini, engines)
    assert built.manifest.parity.problem() == "" and len(fake_cuda.CURRENT) == 1
    assert capsys.readouterr().err.count("runs without a CUDA graph") == 4  # the gate's networks are the engine's
    assert not any("replay" in event for event in fake_cuda.EVENTS)
    State.fail.add("IExecutionContext.execute_async_v3")
    with pytest.raises(FglError, match=r"could not run vae_decoder\.onnx"):
        built.networks.decode(torch.zeros(1, *built.shapes.latent))


def test_every_profile_is_one_shape(tensorrt_11, trt_recipe, random_mini, engines):
    build_engine(trt_recipe, random_mini, engines)
    profiles = State.called("IOptimizationProfile.set_shape")
    assert all(least == best == most for _, least, best, most in profiles)
    assert [(name, shape) for name, shape, *_ in profiles] == [
        ("token_ids", (1, 16)),
        ("text", (1, 16, 64)),
        ("latents", (8, 8, 8, 8)),
        ("timestep", (8,)),
        ("text", (8, 16, 256)),
        ("latents", (4, 8, 8, 8)),
    ]


def test_profile_arithmetic_of_a_large_model():
    asked = Build(backend="tensorrt", precision="float32", image_size=512, unet_batch=64, vae_batch=8)
    shapes = Shapes(latent=(4, 64, 64), tokens=77, text_length=77, text_width=768, projected_width=24960)
    assert backend.static_shapes(asked, shapes) == {
        TEXT: {"token_ids": (1, 77)},
        PROJECTION: {"text": (1, 77, 768)},
        UNET: {"latents": (64, 4, 64, 64), "timestep": (64,), "text": (64, 77, 24960)},
        DECODER: {"latents": (8, 4, 64, 64)},
    }


def test_plans_hold_no_weights_and_engines_share_them(tensorrt_11, trt_recipe, random_mini, engines):
    small = build_engine(trt_recipe, random_mini, engines)
    large = build_engine(trt_recipe.model_copy(update={"unet_batch": 12}), random_mini, engines)
    assert small.key != large.key
    for name in NETWORKS:
        one, other = small.folder / name, large.folder / name
        weights = sum(4 * math.prod(weight.dims) for weight in onnx.load(one).graph.initializer)
        plan = one.with_suffix(".plan").stat().st_size
        assert one.samefile(other) and one.stat().st_size - plan > 0.9 * weights > 50_000
    assert [arguments[0].name for arguments in State.called("IBuilderConfig.set_flag")] == [
        "STRIP_PLAN",
        "REFIT_IDENTICAL",
    ] * 8
    shutil.rmtree(export_folder(small.manifest.key, engines))
    found = build_engine(trt_recipe, random_mini, engines)
    latents = torch.randn(2, *found.shapes.latent)
    assert found.cached and torch.equal(found.networks.decode(latents), small.networks.decode(latents))


@pytest.mark.parametrize(
    ("failure", "kept", "reason"),
    [
        (f"importer's constants in {UNET}", {TEXT, PROJECTION, DECODER}, "unet.plan: 1 weights missing: tmp_weight_7;"),
        ("Refitter.__init__", set(), "cannot make a Refitter: [fake]"),
        ("OnnxParserRefitter.refit_from_file", set(), "cannot refit vae_decoder.plan: [fake]"),
        ("Refitter.refit_cuda_engine", set(), "cannot refit vae_decoder.plan: 0 weights missing"),
    ],
)
def test_a_plan_that_cannot_be_refitted_holds_its_weights(
    failure, kept, reason, tensorrt_11, trt_recipe, random_mini, engines, capsys
):
    State.fail.add(failure)
    built = build_engine(trt_recipe, random_mini, engines)
    said = " ".join(capsys.readouterr().err.split())
    assert reason in said and said.count("it is built again, with its weights") == 4 - len(kept)
    assert built.manifest.parity.problem() == "" and {path.name for path in built.folder.glob("*.onnx")} == kept
    assert len(State.called("IBuilderConfig.set_flag")) == 8 and len(State.called("Builder.create_network")) == 8 - len(
        kept
    )
    found = build_engine(trt_recipe, random_mini, engines)
    latents = torch.randn(2, *found.shapes.latent)
    assert found.cached and torch.equal(found.networks.decode(latents), built.networks.decode(latents))


def test_the_networks_share_the_largest_ones_memory_and_a_stream(tensorrt_11, trt_recipe, random_mini, engines):
    built = build_engine(trt_recipe, random_mini, engines)
    needed = [256 * len(onnx.load(built.folder / name).graph.node) for name in NETWORKS]
    assert (
        State.called("ICudaEngine.create_execution_context")
        == [[tensorrt_11.ExecutionContextAllocationStrategy.USER_MANAGED]] * 4
    )
    (given,) = set(map(tuple, State.called("IExecutionContext.set_device_memory")))
    assert given[0] != 0 and given[1] == max(needed)
    assert len(set(map(tuple, State.called("IExecutionContext.execute_async_v3")))) == 1


def test_a_long_build_says_how_far_it_is(tensorrt_11, trt_recipe, random_mini, engines, capsys, monkeypatch):
    clock = iter(range(0, 10_000, 4))
    monkeypatch.setattr(trt_messages, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    build_engine(trt_recipe, random_mini, engines)
    assert "tensorrt: unet.onnx: Building Engine, 2 of 2, after 12 s" in capsys.readouterr().err


def test_auto_tries_both_halves_and_holds_the_faster_to_the_gate(
    tensorrt_11, trt_recipe, random_mini, engines, monkeypatch
):
    times, gated = iter([0.3, 0.2]), []
    monkeypatch.setattr(contest, "seconds_of", lambda *_: next(times))
    monkeypatch.setattr(making, "measure", lambda *given: gated.append(given[-1]) or measure(*given))
    auto = trt_recipe.model_copy(update={"precision": "auto"})
    built = build_engine(auto, random_mini, engines)
    assert gated == [built.build.precision] == ["float16"] and not built.cached
    seconds = json.loads(next(engines.glob("auto-*.json")).read_text())
    assert seconds == {"tensorrt:bfloat16": 0.3, "tensorrt:float16": 0.2}
    assert build_engine(auto, random_mini, engines).cached and gated == ["float16"]


def test_links_become_copies_where_there_are_none(tmp_path, monkeypatch):
    def refuse(*names):
        raise OSError(95, "operation not supported")

    monkeypatch.setattr("os.link", refuse)
    (tmp_path / "export").mkdir()
    (tmp_path / "engine").mkdir()
    for name in ("unet.onnx", "unet.onnx.data", "other.onnx"):
        (tmp_path / "export" / name).write_text(name)
    link(tmp_path / "export" / "unet.onnx", tmp_path / "engine")
    assert {path.name: path.read_text() for path in (tmp_path / "engine").iterdir()} == {
        "unet.onnx": "unet.onnx",
        "unet.onnx.data": "unet.onnx.data",
    }


def test_timings_are_shared_kept_and_replaced_when_damaged(tensorrt, trt_recipe, random_mini, engines):
    def kernels():
        return json.loads(path.read_bytes())["kernels"]

    build_engine(trt_recipe, random_mini, engines)
    (path,) = engines.glob("tensorrt-*.timing")
    assert path == backend.timing_cache(engines) and len(kernels()) == 4
    build_engine(trt_recipe.model_copy(update={"vae_batch": 2}), random_mini, engines)
    assert len(kernels()) == 5
    path.write_bytes(b"damaged")
    build_engine(trt_recipe.model_copy(update={"vae_batch": 3}), random_mini, engines)
    assert len(kernels()) == 4
    path.write_text(json.dumps({"version": "9.9", "kernels": ["of another version"]}))
    build_engine(trt_recipe.model_copy(update={"vae_batch": 5}), random_mini, engines)
    assert len([kernel for kernel in kernels() if kernel != "of another version"]) == 4


def test_timings_of_another_builder_are_not_lost(tensorrt_11, tmp_path):
    path, config = tmp_path / "x.timing", tensorrt_11.Builder(log()).create_builder_config()
    ours, theirs = backend._attach_timings(config, path), config.create_timing_cache(b"")
    ours._kernels.add("ours")
    theirs._kernels.add("theirs")
    path.write_bytes(bytes(theirs.serialize()))
    backend._save_timings(config, ours, path)
    assert json.loads(path.read_bytes())["kernels"] == ["ours", "theirs"]


def test_timings_and_keys_are_of_one_version_gpu_and_driver(
    tensorrt_11, trt_recipe, random_mini, tmp_path, monkeypatch
):
    driver = tmp_path / "version"
    monkeypatch.setattr(manifest, "DRIVER", driver)
    assert manifest.device_name() == "NVIDIA H200, compute capability 9.0, driver unknown"
    seen = set()
    for change in (
        lambda: driver.write_text("580.65.06\n"),
        lambda: driver.write_text("580.95.05\n"),
        lambda: monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (10, 0)),
        lambda: monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA B200"),
        lambda: setattr(tensorrt_11, "__version__", "11.5.0.1"),
    ):
        change()
        versions = backends.versions(backends.find_backend("tensorrt"))
        key = manifest.Key(
            weights="w", build=trt_recipe.build("tensorrt", "float32"), versions=versions, device=manifest.device_name()
        )
        seen.add((key.digest(), backend.timing_cache(tmp_path).name))
    assert len({key for key, _ in seen}) == len({timings for _, timings in seen}) == 5
    assert manifest.device_name() == "NVIDIA B200, compute capability 10.0, driver 580.95.05"
    assert versions["tensorrt"] == "11.5.0.1"


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (
            "OnnxParser.parse_from_file",
            r"^tensorrt cannot read text_encoder\.onnx: FancyOp node_of_nothing: No importer registered for op: "
            r"FancyOp\. Attempting to import as plugin\. \(and 1 more\)$",
        ),
        (
            "Builder.build_serialized_network",
            r"cannot build text_encoder\.onnx: \[fake\] Builder\.build_serialized_network refused",
        ),
        ("Builder.__init__", r"cannot make a Builder: \[fake\] Builder\.__init__ refused"),
        ("Runtime.__init__", r"cannot make a Runtime: "),
        ("Runtime.deserialize_cuda_engine", r"cannot open .*text_encoder\.plan: \[fake\]"),
        ("ICudaEngine.create_execution_context", "no GPU memory for text_encoder"),
        ("IExecutionContext.set_input_shape", r"refuses token_ids \[1, 16\]"),
        ("IExecutionContext.set_tensor_address", "knows no tensor token_ids"),
        ("IExecutionContext.execute_async_v3", "could not run text_encoder"),
    ],
)
def test_every_refusal_is_one_clear_line_and_leaves_nothing(
    failure, message, tensorrt_11, trt_recipe, random_mini, engines
):
    State.fail.add(failure)
    with pytest.raises(FglError, match=message) as refused:
        build_engine(trt_recipe, random_mini, engines)
    assert "\n" not in refused.value.message and refused.value.hint and refused.value.exit_code == 1
    assert {path.name[:9] for path in engines.iterdir() if path.is_dir()} == {"exported-"}


def test_weights_that_do_not_fit_are_refused(tensorrt_11, trt_recipe, random_mini, engines):
    built = build_engine(trt_recipe, random_mini, engines)
    shutil.copyfile(built.folder / DECODER, built.folder / "else")
    (built.folder / UNET).unlink()
    (built.folder / "else").rename(built.folder / UNET)
    with pytest.raises(FglError, match=r"cannot refit unet\.plan: \d+ weights missing"):
        backend.BACKEND.load(built.build, built.shapes, random_mini, built.folder)


def test_a_plan_of_another_version_does_not_open(tensorrt_11, trt_recipe, random_mini, engines):
    built = build_engine(trt_recipe, random_mini, engines)
    State.version = "12.0"
    with pytest.raises(FglError, match=r"cannot open .*: it gives no reason"):
        backend.BACKEND.load(built.build, built.shapes, random_mini, built.folder)


def test_the_gate_sees_an_engine_that_was_not_refitted(tensorrt_11, trt_recipe, random_mini, engines, monkeypatch):
    monkeypatch.setattr(fake_tensorrt.Refitter, "refit_cuda_engine", lambda self: True)
    with pytest.raises(FglError, match="failed the parity gate"):
        build_engine(trt_recipe, random_mini, engines)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_precision_lies_in_the_onnx_between_inputs_and_outputs_of_float32(
    precision, tensorrt_11, trt_recipe, random_mini, engines, require_narrow
):
    plain = build_engine(trt_recipe, random_mini, engines)
    built = build_engine(trt_recipe.model_copy(update={"precision": precision}), random_mini, engines)
    assert built.manifest.parity.problem() == "" and built.manifest.parity.unet > 1e-5
    assert export_folder(built.manifest.key, engines) != export_folder(plain.manifest.key, engines)
    require_narrow(built.folder, getattr(onnx.TensorProto, precision.upper()))
    for name in (UNET, DECODER):
        onnx.checker.check_model(onnx.load(built.folder / name), full_check=True)


def test_a_version_that_cannot_read_group_norms_gets_them_in_parts(tensorrt, trt_recipe, random_mini, engines):
    old = tensorrt.__version__ < "11"
    built = build_engine(trt_recipe, random_mini, engines)
    assert built.manifest.key.versions["export"].startswith("ONNX opset 18" if old else "ONNX opset 22")
    assert built.manifest.fusions[DECODER].keys() == {"InstanceNormalization" if old else "GroupNormalization"}
    half = build_engine(trt_recipe.model_copy(update={"precision": "float16"}), random_mini, engines)
    assert half.manifest.parity.problem() == ""
    if old:
        with pytest.raises(UsageError, match=r"tensorrt: bfloat16 needs tensorrt 10\.15 or later"):
            build_engine(trt_recipe.model_copy(update={"precision": "bfloat16"}), random_mini, engines)


def test_what_tensorrt_fuses_is_counted_and_required(tensorrt_11, trt_recipe, random_mini, engines):
    built = build_engine(trt_recipe, random_mini, engines)
    folder = export_folder(built.manifest.key, engines)
    modules = Exported.load(folder).modules
    assert built.manifest.fusions[UNET]["Softmax"] == modules[UNET]["Attention"] > 0
    for name in (UNET, DECODER):
        assert built.manifest.fusions[name]["GroupNormalization"] == modules[name]["GroupNorm"] > 0
    model = onnx.load(folder / UNET)
    next(node for node in model.graph.node if node.op_type == "Softmax").op_type = "LogSoftmax"
    onnx.save(model, folder / UNET)
    with pytest.raises(FglError, match=r"^unet\.onnx: 7 Softmax operators for 8 Attention modules: a fusion failed$"):
        build_engine(trt_recipe.model_copy(update={"vae_batch": 2}), random_mini, engines)
