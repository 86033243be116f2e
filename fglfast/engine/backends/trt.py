"""TensorRT 10 and 11: a plan without weights for each network at one batch."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from fglfast.base.console import note
from fglfast.base.errors import FglError
from fglfast.base.files import exclusive, lock_of, write_atomic
from fglfast.base.wording import some
from fglfast.engine.backends import Backend
from fglfast.engine.backends import trt_runtime as tensorrt_runtime
from fglfast.engine.backends.trt_messages import log, new, problem, progress
from fglfast.engine.backends.trt_runtime import FixedNetwork, Workspace
from fglfast.engine.exported import DECODER, PROJECTION, TEXT, UNET, Route, example_inputs, link
from fglfast.engine.fusions import Exported
from fglfast.engine.manifest import device_name
from fglfast.engine.networks import Networks, in_chunks, staying
from fglfast.engine.recipe import Build
from fglfast.generator.shapes import Shapes

# What TensorRT has one layer for, or fuses by pattern: a softmax between two products.
FUSED = {
    "Attention": ("Softmax",),
    "GroupNorm": ("GroupNormalization", "InstanceNormalization"),
    "LayerNorm": ("LayerNormalization",),
}
HINT = "use another backend, or another version of tensorrt"


class TensorRtBackend(Backend):
    """Strongly typed networks: the ONNX carries the precision; products of float32 are TF32, TensorRT's default.

    The plans hold no weights: on loading they are refitted from the ONNX file, which all engines of a model share on
    the disk whatever their batch. Refitting identical weights costs no speed, by NVIDIA's word in pytorch/TensorRT
    pull request 3167; REFIT without _IDENTICAL is known to lose biases (TensorRT 11.3, "Refitting an Engine"). A plan
    that cannot be refitted holds its weights: TensorRT may ask for constants that its own importer made ("tmp_weight",
    NVIDIA/TensorRT issue 4299), and those are in no file.
    """

    packages: tuple[str, ...] = ("tensorrt",)
    extra = "tensorrt"
    precisions: tuple[str, ...] = ("float32", "bfloat16", "float16")
    needs_export = True
    needs_cuda = True
    either_half = True

    def compile(self, build: Build, shapes: Shapes, onnx: Path, engine: Path) -> dict[str, dict[str, int]]:
        """Write one plan a network, and beside it the ONNX file with its weights unless the plan holds them.

        Raises:
            FglError: what TensorRT fuses is not in a graph, or it cannot read or build one.
        """
        exported, fused = Exported.load(onnx), {}
        for name, inputs in static_shapes(build, shapes).items():
            fused[name] = exported.counted(onnx / name, FUSED)
            if _compiled_without_weights(onnx / name, inputs, engine):
                link(onnx / name, engine)
        return fused

    def load(self, build: Build, shapes: Shapes, model: Path, engine: Path) -> Networks:
        """Open the plans and give them their weights.

        Raises:
            FglError: a plan does not open, or its weights do not fit.
        """
        batches = _batches(build)
        opened = {name: _opened(engine / _plan(name)) for name in batches}
        for name, plan in opened.items():
            if (engine / name).exists():
                _refit(plan, engine / _plan(name), engine / name)
        workspace = Workspace(opened.values())
        runs: dict[str, Callable[..., Tensor]] = {}
        for name, batch in batches.items():
            inputs = example_inputs(shapes, batch)[name]
            runs[name] = in_chunks(FixedNetwork(name, opened[name], inputs, workspace), batch)
        device = tensorrt_runtime.DEVICE
        return Networks(runs[TEXT], staying(runs[PROJECTION], device), runs[UNET], runs[DECODER], device)

    def route(self, precision: str) -> Route:
        """The precision in the ONNX, attention in the parts that TensorRT fuses itself."""
        return Route(opset=22 if _normalizes_groups() else 18, precision=precision)

    def refusal(self, precision: str) -> str:
        """ONNX's convolutions are bfloat16 from an opset on whose group norms TensorRT 10.14 cannot read."""
        unable = precision == "bfloat16" and not _normalizes_groups()
        return "bfloat16 needs tensorrt 10.15 or later" if unable else ""


def static_shapes(build: Build, shapes: Shapes) -> dict[str, dict[str, tuple[int, ...]]]:
    """The one shape of each input, by network: minimum, optimum and maximum of its optimisation profile."""
    return {
        name: {key: tuple(tensor.shape) for key, tensor in example_inputs(shapes, batch)[name].items()}
        for name, batch in _batches(build).items()
    }


def _normalizes_groups() -> bool:
    """Whether a group norm may have a scale for each channel, as from opset 21 on: `add_normalization_v2` is there."""
    import tensorrt

    return tuple(int(part) for part in tensorrt.__version__.split(".")[:2]) >= (10, 15)


def timing_cache(engines: Path) -> Path:
    """The file where engines of a folder share kernel timings: they hold for one TensorRT on one GPU and driver."""
    import tensorrt

    digest = hashlib.sha256(f"{tensorrt.__version__} {device_name()}".encode()).hexdigest()[:16]
    return engines / f"tensorrt-{digest}.timing"


def _compiled_without_weights(onnx: Path, inputs: dict[str, tuple[int, ...]], engine: Path) -> bool:
    """Write a network's plan; returns whether its weights stayed outside, as they do if they can be put back."""
    plan, timings = engine / _plan(onnx.name), timing_cache(engine.parent)
    plan.write_bytes(_build(onnx, inputs, timings, stripped=True))
    opened = _opened(plan)
    try:
        _refit(opened, plan, onnx)
    except FglError as error:
        note(f"{error.message}; it is built again, with its weights")
    else:
        return True
    del opened
    plan.write_bytes(_build(onnx, inputs, timings, stripped=False))
    return False


def _build(onnx: Path, inputs: dict[str, tuple[int, ...]], timings: Path, stripped: bool) -> Any:
    """The serialized plan of one network, an `IHostMemory`; stripped, it holds no weights."""
    import tensorrt as trt

    builder = new(trt.Builder)
    network = builder.create_network(_network_flags(trt))
    parser = new(trt.OnnxParser, network)  # owns the weights until the plan is built
    if not parser.parse_from_file(str(onnx)):
        raise FglError(f"tensorrt cannot read {onnx.name}: {problem(parser)}", HINT)
    config = builder.create_builder_config()
    if stripped:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
    config.progress_monitor = monitor = progress(onnx.name)
    profile = builder.create_optimization_profile()
    for name, shape in inputs.items():
        profile.set_shape(name, shape, shape, shape)
    config.add_optimization_profile(profile)
    known = _attach_timings(config, timings)
    plan = builder.build_serialized_network(network, config)
    del monitor  # it has to outlive the build
    if plan is None:
        hint = "if it is memory, lower unet_batch or vae_batch; else use another backend"
        raise FglError(f"tensorrt cannot build {onnx.name}: {log().reason()}", hint)
    _save_timings(config, known, timings)
    return plan


def _network_flags(trt: Any) -> int:
    """Strong typing has to be asked for before TensorRT 11, which knows no other and deprecates the flag."""
    if int(trt.__version__.split(".")[0]) >= 11:
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _attach_timings(config: Any, path: Path) -> Any:
    """The stored timings, or none if they are damaged or refused."""
    timings = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if timings is None or not config.set_timing_cache(timings, False):
        timings = config.create_timing_cache(b"")
        config.set_timing_cache(timings, False)
    return timings


def _save_timings(config: Any, timings: Any, path: Path) -> None:
    """Add new timings to those that another builder may have stored meanwhile."""
    with exclusive(lock_of(path)):
        stored = config.create_timing_cache(path.read_bytes()) if path.exists() else None
        if stored is not None:
            timings.combine(stored, False)
        write_atomic(path, bytes(timings.serialize()))


def _opened(plan: Path) -> Any:
    """An `ICudaEngine` as it was written."""
    import tensorrt as trt

    engine = new(trt.Runtime).deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        raise FglError(f"tensorrt cannot open {plan}: {log().reason()}", "delete the engine's folder")
    return engine


def _refit(engine: Any, plan: Path, onnx: Path) -> None:
    """Give an `ICudaEngine` its weights."""
    import tensorrt as trt

    refitter = new(trt.Refitter, engine)
    parser = new(trt.OnnxParserRefitter, refitter)  # owns the weights until they are refitted
    if not parser.refit_from_file(str(onnx)):
        raise FglError(f"tensorrt cannot refit {plan.name}: {problem(parser)}", HINT)
    if not refitter.refit_cuda_engine():
        missing = refitter.get_missing_weights()
        raise FglError(f"tensorrt cannot refit {plan.name}: {len(missing)} weights missing: {some(missing, 3)}", HINT)


def _batches(build: Build) -> dict[str, int]:
    return {TEXT: 1, PROJECTION: 1, UNET: build.unet_batch, DECODER: build.vae_batch}


def _plan(name: str) -> str:
    return Path(name).with_suffix(".plan").name


BACKEND = TensorRtBackend()
