"""Which execution providers ONNX Runtime gets, with what options; on the CPU nothing may change."""

import shutil
import sys
from pathlib import Path

import fake_cuda
import onnx
import onnxruntime
import pytest
import torch
from cuda_operators import on_cpu

from fglfast.base.errors import FglError, MissingExtraError, UsageError
from fglfast.engine import backends
from fglfast.engine.backends import ort as backend
from fglfast.engine.backends.ort import CPU, CUDA, TENSORRT
from fglfast.engine.build import build_engine
from fglfast.engine.exported import DECODER, PROJECTION, TEXT, UNET, Route, export_folder
from fglfast.engine.fusions import FILE, Exported

BOTH = {TENSORRT, CUDA}

GPU = 3  # which of several a rank has
ON_CUDA = (CUDA, {"device_id": GPU})


@pytest.fixture(autouse=True)
def asked_anew():
    backend.providers.cache_clear()
    yield
    backend.providers.cache_clear()


@pytest.fixture(scope="session")
def ort_recipe(recipe):
    return recipe.model_copy(update={"backend": "onnxruntime"})


@pytest.fixture
def engines(exported):
    return exported(Route(), Route(fused=True), Route(precision="float16"))


@pytest.fixture
def opened(monkeypatch):
    """What sessions were asked for; all of them run on the CPU, and TensorRT's leave a file as its cache."""
    asked = []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, path, options, providers, enable_fallback):
            asked.append((Path(path).name, options, providers, enable_fallback))
            for _, given in (provider for provider in providers if provider[0] == TENSORRT):
                cache = Path(given["trt_engine_cache_path"]) / f"{Path(path).stem}.engine"
                assert given["device_id"] == GPU and Path(given["trt_timing_cache_path"]).is_dir()
                cache.write_text(cache.read_text() if cache.exists() else f"built {len(asked)}")
            options.intra_op_num_threads = 1
            graph = on_cpu(onnx.load(path)).SerializeToString() if len(providers) > 1 else path
            super().__init__(graph, options, providers=[CPU])

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    return asked


def _gpu(monkeypatch, *chosen):
    fake_cuda.install(monkeypatch)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: GPU)
    monkeypatch.setattr(backend, "DEVICE", "cpu")
    monkeypatch.setattr(backend, "providers", lambda: chosen)
    monkeypatch.setitem(sys.modules, "tensorrt", type(sys)("tensorrt"))
    sys.modules["tensorrt"].__version__ = "10.14.1"


@pytest.mark.parametrize(
    ("gpu", "offered", "package", "loadable", "expected"),
    [
        (False, BOTH, True, BOTH, (CPU,)),
        (True, set(), True, BOTH, (CPU,)),
        (True, {CUDA}, True, BOTH, (CUDA, CPU)),
        (True, BOTH, True, BOTH, (TENSORRT, CUDA, CPU)),
        (True, BOTH, False, BOTH, (CUDA, CPU)),
        (True, BOTH, True, {CUDA}, (CUDA, CPU)),
        (True, BOTH, True, set(), (CPU,)),
    ],
)
def test_the_rule(gpu, offered, package, loadable, expected, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*offered, CPU])
    monkeypatch.setattr(backend, "missing", lambda name: None if package else MissingExtraError(name))
    monkeypatch.setattr(backend, "_loads", lambda name: name in loadable)
    assert backend.providers() == expected
    silent = not gpu or not {name for name in offered if package or name != TENSORRT} - loadable
    assert ("running without it" in capsys.readouterr().err) is not silent


@pytest.mark.filterwarnings("ignore:Specified provider", "ignore:Duplicate provider")
def test_a_provider_that_this_build_lacks_does_not_load(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: GPU)
    assert backend._loads(CPU) and not backend._loads(CUDA) and not backend._loads(TENSORRT)


def test_on_the_cpu_nothing_changes(ort_recipe, random_mini, engines, opened):
    built = build_engine(ort_recipe, random_mini, engines)
    assert {(tuple(providers), bool(fallback)) for _, _, providers, fallback in opened} == {((CPU,), True)}
    assert sorted(path.name for path in built.folder.iterdir()) == sorted(
        [TEXT, PROJECTION, UNET, DECODER, "manifest.json"]
    )
    levels = [options.graph_optimization_level for _, options, *_ in opened]
    levels_expected = [onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL] * 4
    assert levels == levels_expected + [onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL] * 4
    assert built.manifest.key.versions.keys() == {
        "diffusers",
        "export",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "torch",
        "transformers",
    }


def test_weights_that_lie_beside_a_graph_come_along(ort_recipe, random_mini, engines, exports):
    """Those of a UNet of Stable Diffusion's size."""
    path, weights = engines / exports(Route(fused=True)).name / UNET, f"{UNET}.data"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location=weights)
    assert build_engine(ort_recipe, random_mini, engines).manifest.parity.problem() == ""
    shutil.rmtree(path.parent)
    found = build_engine(ort_recipe, random_mini, engines)
    assert found.cached and weights in found.manifest.files


def test_on_cuda_graphs_are_optimised_for_it_and_tensors_are_bound(
    ort_recipe, random_mini, engines, opened, monkeypatch
):
    _gpu(monkeypatch, CUDA, CPU)
    built = build_engine(ort_recipe, random_mini, engines)
    assert built.manifest.parity.problem() == ""
    assert all(providers == [ON_CUDA, CPU] and not fallback for _, _, providers, fallback in opened)
    assert "0 synchronizes" in fake_cuda.EVENTS
    fused, modules = built.manifest.fusions, Exported.load(export_folder(built.manifest.key, engines)).modules
    assert fused[UNET]["MultiHeadAttention"] == modules[UNET]["Attention"] > 0
    for name in (UNET, DECODER):
        assert fused[name]["NhwcConv"] == modules[name]["Conv2d"] > 0
        assert fused[name]["GroupNorm"] + fused[name]["SkipGroupNorm"] == modules[name]["GroupNorm"] > 0
    assert built.manifest.key.versions["providers"] == f"{CUDA} {CPU}" and "tensorrt" not in built.manifest.key.versions


def test_float16_on_cuda_passes_the_gate_and_keeps_the_timestep(
    ort_recipe, random_mini, engines, opened, monkeypatch, require_narrow
):
    half = ort_recipe.model_copy(update={"precision": "float16"})
    with pytest.raises(UsageError, match="onnxruntime: on the CPU it computes in float32 only"):
        build_engine(half, random_mini, engines)
    _gpu(monkeypatch, CUDA, CPU)
    built = build_engine(half, random_mini, engines)
    assert built.manifest.parity.problem() == "" and built.manifest.parity.unet > 1e-5
    wide = build_engine(ort_recipe, random_mini, engines)
    assert built.manifest.fusions == wide.manifest.fusions
    assert export_folder(built.manifest.key, engines) == export_folder(wide.manifest.key, engines)
    require_narrow(built.folder, onnx.TensorProto.FLOAT16)


@pytest.mark.parametrize(
    ("operator", "providers", "message"),
    [
        (
            "InstanceNormalization",
            (CUDA, CPU),
            r"unet\.onnx: \d+ GroupNorm or SkipGroupNorm operators for \d+ GroupNorm",
        ),
        ("MultiHeadAttention", (CPU,), r"unet\.onnx: 7 MultiHeadAttention operators for 8 Attention modules"),
    ],
)
def test_a_graph_in_which_a_fusion_failed_is_refused(
    operator, providers, message, ort_recipe, random_mini, engines, exports, opened, monkeypatch
):
    if CUDA in providers:
        _gpu(monkeypatch, *providers)
    path = engines / exports(Route(fused=True)).name / UNET
    model = onnx.load(path)
    node = next(node for node in model.graph.node if node.op_type == operator)
    if operator == "InstanceNormalization":
        node.input[1] = node.input[2]  # a scale that is not one
    else:
        node.op_type, node.domain = "Identity", ""
        del node.input[1:], node.attribute[:]
    onnx.save(model, path)
    with pytest.raises(FglError, match=message):
        build_engine(ort_recipe, random_mini, engines)
    assert all(folder.name.startswith("exported-") for folder in engines.iterdir() if folder.is_dir())


@pytest.mark.parametrize("version", ["10.14.1", "11.4.0"])
def test_float16_on_tensorrt_is_in_the_graph(version, ort_recipe, random_mini, engines, exports, opened, monkeypatch):
    _gpu(monkeypatch, TENSORRT, CUDA, CPU)
    sys.modules["tensorrt"].__version__ = version
    built = build_engine(ort_recipe.model_copy(update={"precision": "float16"}), random_mini, engines)
    assert built.manifest.parity.problem() == "" and built.manifest.parity.unet > 1e-5
    assert (built.folder / UNET).samefile(engines / exports(Route(precision="float16")).name / UNET)
    asked = {name for name, _, providers, _ in opened if providers[0][1].get("trt_fp16_enable", False)}
    assert asked == ({UNET, DECODER} if version < "11" else set())


def test_a_graph_that_stays_wide_is_not_narrowed_by_tensorrt(
    ort_recipe, engine, exports, tmp_path, opened, monkeypatch
):
    """SDXL's decoder, which leaves float16's range."""
    folder = exports(Route(precision="float16"))
    _gpu(monkeypatch, TENSORRT, CUDA, CPU)
    shutil.copytree(folder, tmp_path / "engine")
    Exported(modules={}, float16=(UNET,)).save(tmp_path / "engine" / FILE)
    build = ort_recipe.build("onnxruntime", "float16")
    for name in (UNET, DECODER):
        backend._tensorrt_session(tmp_path / "engine" / name, build, engine.shapes)
    assert ["trt_fp16_enable" in providers[0][1] for _, _, providers, _ in opened] == [True, False]


def test_what_onnxruntime_raises_is_said_in_a_line():
    with pytest.raises(FglError, match="onnxruntime: ") as said, backend.told():
        onnxruntime.InferenceSession(b"nonsense", providers=[CPU])
    assert "\n" not in said.value.message
    full = onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException("Failed to allocate memory for a buffer of 9")
    with pytest.raises(torch.OutOfMemoryError), backend.told():
        raise full
    with pytest.raises(torch.OutOfMemoryError), backend.told():  # as a session says it whose tensors are bound
        raise RuntimeError("Error in execution: Failed to allocate memory for a buffer of 9")
    with pytest.raises(FglError, match="onnxruntime: Error in execution: Non-zero"), backend.told():
        raise RuntimeError("Error in execution: Non-zero status code returned while running GroupNorm node.")
    with pytest.raises(KeyError), backend.told():
        raise KeyError


def test_tensorrt_gets_plain_graphs_its_caches_and_one_shape(ort_recipe, random_mini, engines, opened, monkeypatch):
    _gpu(monkeypatch, TENSORRT, CUDA, CPU)
    bound = []
    bind = onnxruntime.IOBinding.bind_input
    monkeypatch.setattr(onnxruntime.IOBinding, "bind_input", lambda *given: bound.append(given) or bind(*given))
    built = build_engine(ort_recipe, random_mini, engines)
    assert built.manifest.parity.problem() == ""
    profiles = {name: providers[0][1] for name, _, providers, _ in opened}
    assert {name: options["trt_profile_opt_shapes"] for name, options in profiles.items()} == {
        TEXT: "token_ids:1x16",
        PROJECTION: "text:1x16x64",
        UNET: "latents:8x8x8x8,timestep:8,text:8x16x256",
        DECODER: "latents:4x8x8x8",
    }
    for options in profiles.values():
        shapes = {options[f"trt_profile_{which}_shapes"] for which in ("min", "opt", "max")}
        assert len(shapes) == 1 and options["trt_engine_cache_enable"] and options["trt_timing_cache_enable"]
    assert {"x".join(map(str, shape)) for _, name, _, _, _, shape, _ in bound if name == "latents"} == {
        "8x8x8x8",
        "4x8x8x8",
    }
    assert {shape for _, name, _, _, _, shape, _ in bound if name == "token_ids"} == {(1, 16)}
    assert all(providers[1:] == [ON_CUDA, CPU] and not fallback for _, _, providers, fallback in opened)
    assert {"unet.engine", "unet.onnx"} < {path.name for path in built.folder.iterdir()}
    assert (built.folder / UNET).samefile(export_folder(built.manifest.key, engines) / UNET)
    assert built.manifest.key.versions["tensorrt"] == "10.14.1"
    assert build_engine(ort_recipe, random_mini, engines).cached
    assert (built.folder / "unet.engine").read_text() == "built 3"


def test_each_choice_of_providers_is_another_engine(ort_recipe, monkeypatch):
    found = backends.find_backend("onnxruntime")
    seen = [backends.versions(found)]
    for chosen in ((CUDA, CPU), (TENSORRT, CUDA, CPU)):
        _gpu(monkeypatch, *chosen)
        seen.append(backends.versions(found))
    sys.modules["tensorrt"].__version__ = "10.16.1"
    seen.append(backends.versions(found))
    assert len({tuple(sorted(versions.items())) for versions in seen}) == 4


def test_bound_tensors_give_what_arrays_give(exports, monkeypatch):
    folder = exports(Route(fused=True))
    fake_cuda.install(monkeypatch)
    monkeypatch.setattr(backend, "DEVICE", "cpu")
    inputs = torch.randn(3, 8, 8, 8), torch.tensor([900.0, 500.0, 10.0]), torch.randn(3, 16, 256)
    for name, given in ((UNET, inputs), (TEXT, (torch.arange(48).view(16, 3).T,))):
        session = onnxruntime.InferenceSession(folder / name, providers=[CPU])
        expected = backend._function(session)(*given)
        assert torch.equal(backend._bound(session)(*given), expected) and expected.isfinite().all()
