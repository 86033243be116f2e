"""TensorRT 10 and 11: a plan without weights for each network at one batch. Knows nothing of buffers and streams."""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from fglfast.base.errors import FglError
from fglfast.base.files import exclusive, write_atomic
from fglfast.base.wording import some
from fglfast.engine.backends import Backend
from fglfast.engine.backends import trt_runtime as tensorrt_runtime
from fglfast.engine.backends.trt_runtime import FixedNetwork
from fglfast.engine.export import DECODER, PROJECTION, TEXT, UNET, Route, example_inputs, link
from fglfast.engine.fusions import Exported, count, require
from fglfast.engine.manifest import device_name
from fglfast.engine.networks import Networks, in_chunks, staying
from fglfast.engine.recipe import Build
from fglfast.generator.load import Shapes

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
    pull request 3167; REFIT without _IDENTICAL is known to lose biases (TensorRT 11.3, "Refitting an Engine").
    """

    packages: tuple[str, ...] = ("tensorrt",)
    optional: tuple[str, ...] = ()
    extra = "tensorrt"
    precisions: tuple[str, ...] = ("float32", "bfloat16", "float16")
    needs_export = True
    needs_cuda = True

    def compile(self, build: Build, shapes: Shapes, onnx: Path, engine: Path) -> dict[str, dict[str, int]]:
        """Write one plan a network, the ONNX file with its weights beside it.

        Raises:
            FglError: what TensorRT fuses is not in a graph, or it cannot read or build one.
        """
        exported, fused = Exported.load(onnx), {}
        for name, inputs in static_shapes(build, shapes).items():
            fused[name] = count(onnx / name)
            require(fused[name], exported.modules.get(name, {}), FUSED, name)
            (engine / _plan(name)).write_bytes(_build(onnx / name, inputs, timing_cache(engine.parent)))
            link(onnx / name, engine)
        return fused

    def load(self, build: Build, shapes: Shapes, model: Path, engine: Path) -> Networks:
        """Open the plans and give them their weights.

        Raises:
            FglError: a plan does not open, or its weights do not fit.
        """
        import tensorrt

        runtime = _new(tensorrt.Runtime)
        runs: dict[str, Callable[..., Tensor]] = {}
        for name, batch in _batches(build).items():
            opened = _refitted(runtime, engine / _plan(name), engine / name)
            runs[name] = in_chunks(FixedNetwork(name, opened, example_inputs(shapes, batch)[name]), batch)
        return Networks(runs[TEXT], staying(runs[PROJECTION], tensorrt_runtime.DEVICE), runs[UNET], runs[DECODER])

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


def _build(onnx: Path, inputs: dict[str, tuple[int, ...]], timings: Path) -> Any:
    """The serialized plan of one network, an `IHostMemory`."""
    import tensorrt as trt

    builder = _new(trt.Builder)
    network = builder.create_network(_network_flags(trt))
    parser = _new(trt.OnnxParser, network)  # owns the weights until the plan is built
    if not parser.parse_from_file(str(onnx)):
        raise FglError(f"tensorrt cannot read {onnx.name}: {_problem(parser)}", HINT)
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.STRIP_PLAN)
    config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
    profile = builder.create_optimization_profile()
    for name, shape in inputs.items():
        profile.set_shape(name, shape, shape, shape)
    config.add_optimization_profile(profile)
    known = _attach_timings(config, timings)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        hint = "if it is memory, lower unet_batch or vae_batch; else use another backend"
        raise FglError(f"tensorrt cannot build {onnx.name}: {_log().reason()}", hint)
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
    with exclusive(path.with_name(f".{path.name}.lock")):
        stored = config.create_timing_cache(path.read_bytes()) if path.exists() else None
        if stored is not None:
            timings.combine(stored, False)
        write_atomic(path, bytes(timings.serialize()))


def _refitted(runtime: Any, plan: Path, onnx: Path) -> Any:
    """An `ICudaEngine` with its weights."""
    import tensorrt as trt

    engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        raise FglError(f"tensorrt cannot open {plan}: {_log().reason()}", "delete the engine's folder")
    refitter = _new(trt.Refitter, engine)
    parser = _new(trt.OnnxParserRefitter, refitter)  # owns the weights until they are refitted
    if not parser.refit_from_file(str(onnx)):
        raise FglError(f"tensorrt cannot refit {plan.name}: {_problem(parser)}", HINT)
    if not refitter.refit_cuda_engine():
        missing = refitter.get_missing_weights()
        raise FglError(f"tensorrt cannot refit {plan.name}: {len(missing)} weights missing: {some(missing, 3)}", HINT)
    return engine


def _new(kind: Any, *arguments: Any) -> Any:
    """Make an object of TensorRT's, whose bindings answer a refusal with a TypeError and the reason in the log."""
    log = _log()
    log.errors.clear()
    try:
        return kind(*arguments, log)
    except TypeError as error:
        hint = "check the NVIDIA driver, or use another backend"
        raise FglError(f"tensorrt cannot make a {kind.__name__}: {log.reason()}", hint) from error


def _problem(parser: Any) -> str:
    """The first error of a parser in one line."""
    if not parser.num_errors:
        return str(_log().reason())
    first = parser.get_error(0)
    more = f" (and {parser.num_errors - 1} more)" if parser.num_errors > 1 else ""
    return f"{first.node_operator()} {first.node_name()}: {' '.join(first.desc().split())}{more}"


@cache
def _log() -> Any:
    """The process's one logger: it has to outlive all that was made with it. Errors are kept for the message."""
    import tensorrt as trt

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(" ".join(msg.split()))

        def reason(self) -> str:
            return self.errors[0] if self.errors else "it gives no reason"

    return Log()


def _batches(build: Build) -> dict[str, int]:
    return {TEXT: 1, PROJECTION: 1, UNET: build.unet_batch, DECODER: build.vae_batch}


def _plan(name: str) -> str:
    return Path(name).with_suffix(".plan").name


BACKEND = TensorRtBackend()
