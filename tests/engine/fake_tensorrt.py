"""A `tensorrt` that refuses what the real one refuses and computes with ONNX Runtime on the CPU.

Every class, method, parameter name, type and enum member here is that of the pybind11 docstrings of
`tensorrt_cu13_bindings` 10.14.1.48 and 11.4.0.106, which agree on all of it but the enums; `test_trt_facts.py` compares
them again wherever the real package is installed. What the real one does with a call is from NVIDIA's documentation.
"""

import json
import pickle
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
from binding_checks import Buffer, Checked, Dims, State, host_memory
from onnx import numpy_helper

VERSIONS = ("10.14.1.48.post1", "11.4.0.106")
MAGIC = b"plan of a fake tensorrt"
LARGE = 16  # weights of more values are stripped
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


class PyBindEnum(Enum):
    def __int__(self) -> int:
        return int(self.value)


class Severity(PyBindEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __le__(self, other: "Severity") -> bool:
        return int(self) <= int(other)


def _enum(name: str, members: str) -> type[PyBindEnum]:
    return PyBindEnum(name, [(member, number) for number, member in enumerate(members.split())])


ExecutionContextAllocationStrategy = _enum(
    "ExecutionContextAllocationStrategy", "STATIC ON_PROFILE_CHANGE USER_MANAGED"
)
_FLAGS = "STRIP_PLAN REFIT_IDENTICAL REFIT TF32 DISABLE_TIMING_CACHE WEIGHT_STREAMING"
ENUMS = {
    "10": (
        _enum("BuilderFlag", f"FP16 BF16 INT8 FP8 OBEY_PRECISION_CONSTRAINTS {_FLAGS}"),
        _enum("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH STRONGLY_TYPED"),
    ),
    "11": (_enum("BuilderFlag", _FLAGS), _enum("NetworkDefinitionCreationFlag", "STRONGLY_TYPED")),
}


class ILogger(Checked):
    Severity = Severity
    _made = False
    made = property(lambda self: self._made)

    def __init__(self) -> None:
        self._made = True

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError("pure virtual")


class IProgressMonitor(Checked):
    _made = False
    made = property(lambda self: self._made)

    def __init__(self) -> None:
        self._made = True

    def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
        raise NotImplementedError("pure virtual")

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError("pure virtual")

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError("pure virtual")


class ParserError(Checked):
    def desc(self) -> str:
        return "No importer registered for op:\n FancyOp. Attempting to import as plugin."

    def node_name(self) -> str:
        return "node_of_nothing"

    def node_operator(self) -> str:
        return "FancyOp"


class INetworkDefinition(Checked):
    """Filled by the parser."""


class IOptimizationProfile(Checked):
    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None:
        if not len(min) == len(opt) == len(max) or not all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True)):
            raise ValueError("inconsistent dimensions")
        self.__dict__.setdefault("_shapes", {})[input] = (tuple(min), tuple(opt), tuple(max))


class ITimingCache(Checked):
    def serialize(self) -> Buffer:
        return host_memory(json.dumps({"version": State.version, "kernels": sorted(self._kernels)}).encode())

    def combine(self, input_cache: "ITimingCache", ignore_mismatch: bool) -> bool:
        self._kernels |= input_cache._kernels
        return True


class IBuilderConfig(Checked):
    @property
    def progress_monitor(self) -> IProgressMonitor | None:
        return self._monitor

    @progress_monitor.setter
    def progress_monitor(self, monitor: IProgressMonitor) -> None:
        assert isinstance(monitor, IProgressMonitor) and monitor.made
        self._monitor = monitor

    def set_flag(self, flag: PyBindEnum) -> None:
        assert flag in ENUMS[State.version[:2]][0]
        self._flags.add(flag.name)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: Buffer) -> ITimingCache:
        cache, data = ITimingCache(), bytes(serialized_timing_cache)
        try:
            stored = json.loads(data) if data else {"version": State.version, "kernels": []}
        except ValueError:
            return None
        cache._version, cache._kernels = stored["version"], set(stored["kernels"])
        return cache

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if cache._version != State.version:
            return False
        self._timings = cache
        return True


class Builder(Checked):
    def __init__(self, logger: ILogger) -> None: ...

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        network = INetworkDefinition()
        network._flags = flags
        return network

    def create_builder_config(self) -> IBuilderConfig:
        config = IBuilderConfig()
        config._flags, config._profiles, config._timings, config._monitor = set(), [], None, None
        return config

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> Buffer:
        (profile,) = config._profiles
        inputs = {value.name: _dims(value) for value in network._model.graph.input}
        assert inputs.keys() == profile._shapes.keys()
        for name, shape in inputs.items():
            assert all(fixed in (-1, size) for fixed, size in zip(shape, profile._shapes[name][1], strict=True))
        config._timings._kernels.add(f"{network._path.name} {sorted(profile._shapes.items())}")
        _watched(config._monitor)
        model = onnx.ModelProto.FromString(network._model.SerializeToString())
        stripped = {}
        if "STRIP_PLAN" in config._flags:
            if f"importer's constants in {network._path.name}" in State.fail:
                stripped["tmp_weight_7"] = (2,), onnx.TensorProto.FLOAT
            for weight in list(model.graph.initializer):
                if np.prod(weight.dims) > LARGE and weight.data_type in FLOATS:
                    stripped[weight.name] = tuple(weight.dims), weight.data_type
                    model.graph.initializer.remove(weight)
        plan = (State.version, model.SerializeToString(), profile._shapes, stripped, frozenset(config._flags))
        return host_memory(MAGIC + pickle.dumps(plan))


def _watched(monitor: IProgressMonitor) -> None:
    """Phases within phases, and one that ends early."""
    monitor.phase_start("Building Engine", None, 2)
    monitor.phase_start("Timing tactics", "Building Engine", 3)
    assert monitor.step_complete("Timing tactics", 0)
    monitor.phase_finish("Timing tactics")
    assert monitor.step_complete("Building Engine", 0) and monitor.step_complete("Building Engine", 1)
    monitor.phase_finish("Building Engine")


class OnnxParser(Checked):
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = network

    num_errors = property(lambda self: 2 * ("OnnxParser.parse_from_file" in State.fail))

    def parse_from_file(self, model: str) -> bool:
        self._network._model, self._network._path = onnx.load(model), Path(model)
        return True

    def get_error(self, index: int) -> ParserError:
        return ParserError()


class IExecutionContext(Checked):
    def set_input_shape(self, name: str, shape: Dims) -> bool:
        least, _, most = self._engine._profile.get(name, ((), (), ()))
        self._shapes[name] = tuple(shape)
        return len(shape) == len(least) and all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(self._shape(next(value for value in self._engine._model.graph.output if value.name == name)))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        graph = self._engine._model.graph
        if memory == 0 or name not in {value.name for value in (*graph.input, *graph.output)}:
            return False
        self._addresses[name] = memory
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        self._memory_size = size if memory else 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        graph = self._engine._model.graph
        if len(self._addresses) != len(graph.input) + len(graph.output):
            return False
        if self._memory_size < self._engine.device_memory_size_v2:
            return False
        if not State.recording:
            self._compute()
        elif "capture" in State.fail:
            return False
        else:
            State.recording[-1].append(self._compute)
        return True

    def _compute(self) -> None:
        graph = self._engine._model.graph
        feed = {value.name: self._memory(value).copy() for value in graph.input}
        for value, result in zip(graph.output, self._engine._session().run(None, feed), strict=True):
            self._memory(value)[...] = result

    def _shape(self, value: Any) -> tuple[int, ...]:
        if value.name in self._shapes:
            return self._shapes[value.name]
        batches = {shape[0] for shape in self._shapes.values()}
        known = len(self._shapes) == len(self._engine._model.graph.input) and len(batches) == 1
        return tuple((batches.pop() if known else -1) if size == -1 else size for size in _dims(value))

    def _memory(self, value: Any) -> Any:
        shape = self._shape(value)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        kind = np.ctypeslib.as_ctypes_type(dtype) * int(np.prod(shape))
        return np.ctypeslib.as_array(kind.from_address(self._addresses[value.name])).reshape(shape)


class ICudaEngine(Checked):
    device_memory_size_v2 = property(lambda self: 256 * len(self._model.graph.node))

    def create_execution_context(
        self,
        strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC,
    ) -> IExecutionContext:
        context = IExecutionContext()
        context._engine, context._shapes, context._addresses = self, {}, {}
        own = strategy != ExecutionContextAllocationStrategy.USER_MANAGED
        context._memory_size = self.device_memory_size_v2 if own else 0
        return context

    def _session(self) -> Any:
        """Weights that were stripped and not refitted are zero."""
        if self._ready is None:
            model = onnx.ModelProto.FromString(self._model.SerializeToString())
            for name, (shape, kind) in self._stripped.items():
                array = self._weights.get(name, np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(kind)))
                model.graph.initializer.append(numpy_helper.from_array(array, name))
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            graph, cpu = _computable(model).SerializeToString(), ["CPUExecutionProvider"]
            self._ready = onnxruntime.InferenceSession(graph, options, providers=cpu)
        return self._ready


class Runtime(Checked):
    def __init__(self, logger: ILogger) -> None: ...

    def deserialize_cuda_engine(self, serialized_engine: Buffer) -> ICudaEngine:
        data = bytes(serialized_engine)
        if not data.startswith(MAGIC):
            return None
        version, model, profile, stripped, flags = pickle.loads(data[len(MAGIC) :])
        if version != State.version:
            return None
        engine = ICudaEngine()
        engine._model, engine._profile, engine._stripped = onnx.ModelProto.FromString(model), profile, stripped
        engine._refittable, engine._weights, engine._ready = "REFIT_IDENTICAL" in flags, {}, None
        return engine


class Refitter(Checked):
    def __init__(self, engine: ICudaEngine, logger: ILogger) -> None:
        if not engine._refittable:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._engine, self._given = engine, {}

    def get_missing_weights(self) -> list:
        return sorted(self._engine._stripped.keys() - self._given.keys())

    def refit_cuda_engine(self) -> bool:
        self._engine._weights = dict(self._given)
        return not self._engine._stripped.keys() - self._given.keys()


class OnnxParserRefitter(Checked):
    def __init__(self, refitter: Refitter, logger: ILogger) -> None:
        self._refitter = refitter

    num_errors = property(lambda self: 0)

    def refit_from_file(self, model: str) -> bool:
        weights = {weight.name: weight for weight in onnx.load(model).graph.initializer}
        for name in self._refitter._engine._stripped.keys() & weights.keys():
            self._refitter._given[name] = numpy_helper.to_array(weights[name])
        return True

    def get_error(self, index: int) -> ParserError:
        return ParserError()


CLASSES = tuple(Checked.__subclasses__())


def make(version: str) -> ModuleType:
    """The module `tensorrt` of a version, everything in it fresh."""
    State.reset(version)
    module = ModuleType("tensorrt")
    module.__version__ = version
    for kind in CLASSES:
        setattr(module, kind.__name__, kind)
    module.BuilderFlag, module.NetworkDefinitionCreationFlag = ENUMS[version[:2]]
    module.ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
    return module


def _dims(value: Any) -> tuple[int, ...]:
    return tuple(-1 if dim.dim_param else dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _computable(model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime has no bfloat16 on the CPU: weights rounded to it, sums in float32."""
    wide, narrow = onnx.TensorProto.FLOAT, onnx.TensorProto.BFLOAT16
    for weight in model.graph.initializer:
        if weight.data_type == narrow:
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), weight.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == narrow:
                attribute.i = wide
    del model.graph.value_info[:]
    return model
