"""ONNX Runtime on the CPU, or on CUDA and TensorRT where it can."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fglfast.base.console import note
from fglfast.base.errors import FglError
from fglfast.base.ranks import ranks_here
from fglfast.base.wording import first_line
from fglfast.engine.backends import Backend, missing
from fglfast.engine.backends.ort_graph import optimized, save
from fglfast.engine.backends.trt import static_shapes, timing_cache
from fglfast.engine.exported import DECODER, PROJECTION, TEXT, UNET, Route, example_inputs, link
from fglfast.engine.fusions import FILE, Exported
from fglfast.engine.networks import Networks, in_chunks, staying
from fglfast.engine.recipe import Build
from fglfast.generator.shapes import Shapes

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
DEVICE = "cuda"
ERRORS = 3  # of what ONNX Runtime prints by itself
# Which operators each kind of module becomes one of. The CPU has no kernel for a group norm; its convolutions depend on
# the processor.
FUSED: dict[str, dict[str, tuple[str, ...]]] = {
    CPU: {"Attention": ("MultiHeadAttention",), "LayerNorm": ("LayerNormalization", "SkipLayerNormalization")},
    CUDA: {
        "Attention": ("MultiHeadAttention",),
        "Conv2d": ("NhwcConv",),
        "GroupNorm": ("GroupNorm", "SkipGroupNorm"),
        "LayerNorm": ("LayerNormalization", "SkipLayerNormalization"),
    },
}
NUMPY = {torch.float32: np.float32, torch.int64: np.int64}


class OnnxRuntimeBackend(Backend):
    """Runs graphs that ONNX Runtime optimised for this processor or GPU when the engine was built.

    What it gives to TensorRT cannot be saved as a graph: such an engine holds the plain graph and TensorRT's cache.
    """

    packages: tuple[str, ...] = ("onnxruntime",)
    extra = "cpu"
    needs_export = True
    precisions: tuple[str, ...] = ("float32", "float16")

    def compile(self, build: Build, shapes: Shapes, onnx: Path, engine: Path) -> dict[str, dict[str, int]]:
        """Write one optimised graph a network, or one plain graph and TensorRT's cache.

        Raises:
            FglError: a fusion that the network's modules imply did not happen.
        """
        exported, fused = Exported.load(onnx), {}
        if TENSORRT in providers():
            exported.save(engine / FILE)  # its sessions are told which graphs are float16
        for name in example_inputs(shapes, 1):
            if TENSORRT in providers():
                link(onnx / name, engine)
                _tensorrt_session(engine / name, build, shapes)
                continue
            if CUDA in providers() and name != PROJECTION:
                half = build.precision == "float16" and name in exported.float16
                save(optimized(onnx / name, half), engine / name)
            else:
                _session(onnx / name, written=engine / name)
            fused[name] = exported.counted(engine / name, FUSED[providers()[0]])
        return fused

    def load(self, build: Build, shapes: Shapes, model: Path, engine: Path) -> Networks:
        """Open one session a network."""
        device, function = (DEVICE, _bound) if self.uses_gpu() else ("cpu", _function)
        if TENSORRT in providers():
            names = static_shapes(build, shapes)
            runs = {name: function(_tensorrt_session(engine / name, build, shapes)) for name in names}
            runs |= {name: in_chunks(runs[name], 1) for name in (TEXT, PROJECTION)}
        else:
            runs = {name: function(_session(engine / name)) for name in example_inputs(shapes, 1)}
        return Networks(
            encode=runs[TEXT],
            project=staying(runs[PROJECTION], device),
            denoise=in_chunks(runs[UNET], build.unet_batch),
            decode=in_chunks(runs[DECODER], build.vae_batch),
            device=device,
        )

    def key_facts(self) -> dict[str, str]:
        """The providers off the CPU: `onnxruntime` and `onnxruntime-gpu` have the same version numbers."""
        if not self.uses_gpu():
            return {}
        facts = {"providers": " ".join(providers())}
        return facts | ({"tensorrt": import_module("tensorrt").__version__} if TENSORRT in providers() else {})

    def route(self, precision: str) -> Route:
        """Its own attention; for TensorRT plain graphs in the precision itself.

        For CUDA the graph is narrowed after it is fused: the patterns of the fusions are those of float32.
        """
        return Route(precision=precision) if TENSORRT in providers() else Route(fused=True)

    def uses_gpu(self) -> bool:
        """Whether a provider for it loads."""
        return providers() != (CPU,)

    def refusal(self, precision: str) -> str:
        """On the CPU its convolutions and products are float32."""
        unable = precision != "float32" and not self.uses_gpu()
        return f"on the CPU it computes in float32 only, not {precision}" if unable else ""


@cache
def providers() -> tuple[str, ...]:
    """Execution providers of a session, best first: those this ONNX Runtime offers and that load on this machine.

    Without a CUDA device the CPU alone; with one TensorRT, if its package is installed, before CUDA before the CPU.
    Each is tried once: a session that asks for one whose libraries are missing falls back without an error.
    """
    if not torch.cuda.is_available():
        return (CPU,)
    import onnxruntime

    offered = set(onnxruntime.get_available_providers())
    if missing("tensorrt"):  # which has also loaded TensorRT's libraries from where pip puts them
        offered.discard(TENSORRT)
    tried = [name for name in (TENSORRT, CUDA) if name in offered]
    loaded = [name for name in tried if _loads(name)]
    for name in tried:
        if name not in loaded:
            note(f"onnxruntime offers {name}, but it does not load here: running without it")
    return (*loaded, CPU)


def _loads(provider: str) -> bool:
    import onnxruntime
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = {"trt_min_subgraph_size": 1000} if provider == TENSORRT else {}  # load it, build nothing
    chosen = [_on_this_gpu(provider, options), CPU]
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), _options(), providers=chosen, enable_fallback=0
        )
    except Exception:
        return False
    return provider in session.get_providers()


def _options() -> Any:
    import onnxruntime

    onnxruntime.set_default_logger_severity(ERRORS)  # it warns of each session that CUDA is no plug-in
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS
    if ranks_here() > 1:  # on the same cores
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _on_this_gpu(provider: str, options: dict[str, Any] | None = None) -> Any:
    """A provider with its options: PyTorch's current GPU, not the first one, as each rank has its own."""
    return provider if provider == CPU else (provider, {**(options or {}), "device_id": torch.cuda.current_device()})


def _session(path: Path, written: Path | None = None) -> Any:
    """Open a graph; with `written`, only to write what the session makes of it."""
    import onnxruntime

    options, on_cpu = _options(), providers() == (CPU,)
    # What was optimised before is left alone; what was written for CUDA has constants to fold and casts to drop yet.
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_DISABLE_ALL if on_cpu and not written else levels.ORT_ENABLE_ALL
    if written:
        options.optimized_model_filepath = str(written)
        # Weights outside the graph would stay where they are, and be looked for beside the one that is written.
        if path.with_name(weights := f"{path.name}.data").exists():
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", weights)
    chosen = [_on_this_gpu(name) for name in providers()]
    with told():
        # Elsewhere its own fallback prints on stdout, where a command's result goes.
        return onnxruntime.InferenceSession(path, options, providers=chosen, enable_fallback=on_cpu)


def _tensorrt_session(path: Path, build: Build, shapes: Shapes) -> Any:
    """Open a plain graph; TensorRT's engine is built when its cache beside the graph is empty."""
    import onnxruntime

    timings = timing_cache(path.parent.parent).with_suffix(".ort")
    timings.mkdir(exist_ok=True)
    options = tensorrt_options(path.parent, timings, static_shapes(build, shapes)[path.name])
    half = build.precision == "float16" and path.name in Exported.load(path.parent).float16
    if half and int(import_module("tensorrt").__version__.split(".")[0]) < 11:
        options["trt_fp16_enable"] = True  # later versions take every type as it stands in the graph
    chosen = [_on_this_gpu(name, options if name == TENSORRT else None) for name in providers()]
    with told():
        return onnxruntime.InferenceSession(path, _options(), providers=chosen, enable_fallback=0)


@contextmanager
def told() -> Iterator[None]:
    """Say in one line what ONNX Runtime raises: plain Exceptions of its own, bare RuntimeErrors from a bound session.

    Raises:
        FglError: what it could not do; for want of memory torch.OutOfMemoryError, which has smaller batches tried.
    """
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime") and type(error) is not RuntimeError:
            raise
        reason = first_line(error)
        if "Failed to allocate memory" in reason or "out of memory" in reason:
            raise torch.OutOfMemoryError(f"onnxruntime: {reason}") from error
        raise FglError(f"onnxruntime: {reason}", "use another backend") from error


def tensorrt_options(engine: Path, timings: Path, inputs: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Options of the TensorRT provider: caches, and a profile whose minimum, optimum and maximum are one shape.

    With all inputs in the profile the engine is built when the session opens, not in its first pass.

    Args:
        engine: folder of TensorRT's engines; of one model only, as their names do not depend on its weights.
        timings: folder of kernel timings; of one TensorRT and GPU only, as its file's name holds the latter alone.
        inputs: the one shape of each input, by name.

    Source: onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html.
    """
    profile = ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in inputs.items())
    return {
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(engine),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(timings),
        "trt_profile_min_shapes": profile,
        "trt_profile_opt_shapes": profile,
        "trt_profile_max_shapes": profile,
    }


def _function(session: Any) -> Callable[..., Tensor]:
    names = [given.name for given in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        arrays = [tensor.contiguous().numpy() for tensor in inputs]
        with told():
            return torch.from_numpy(session.run(None, dict(zip(names, arrays, strict=True)))[0])

    return run


def _bound(session: Any) -> Callable[..., Tensor]:
    """Run on tensors where they lie on the GPU, without a copy through the host."""
    names = [given.name for given in session.get_inputs()]
    output = session.get_outputs()[0]

    def run(*inputs: Tensor) -> Tensor:
        placed = [tensor.to(DEVICE).contiguous() for tensor in inputs]
        result = torch.empty(len(inputs[0]), *output.shape[1:], device=DEVICE)
        binding, gpu = session.io_binding(), result.device.index or 0
        for name, tensor in zip(names, placed, strict=True):
            kind = NUMPY[tensor.dtype]
            binding.bind_input(name, DEVICE, gpu, kind, tuple(tensor.shape), tensor.data_ptr())
        binding.bind_output(output.name, DEVICE, gpu, np.float32, tuple(result.shape), result.data_ptr())
        torch.cuda.current_stream().synchronize()  # the session works on a stream of its own
        with told():
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        return result.to(inputs[0].device)

    return run


BACKEND = OnnxRuntimeBackend()
