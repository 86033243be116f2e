"""TensorRT engines over fixed buffers and CUDA graphs."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from fglfast.base.console import note
from fglfast.base.errors import FglError

DEVICE = "cuda"
OUTPUT = "output"


class Workspace:
    """What the networks of an engine share: a stream, so that they run one after the other, and so their memory.

    The memory is for what lies between a network's layers; each alone would hold as much as it needs. The stream is
    not the default one, on which TensorRT synchronizes the whole device.

    Args:
        engines: deserialized `ICudaEngine`s.

    Raises:
        torch.OutOfMemoryError: the largest one's does not fit.
    """

    def __init__(self, engines: Iterable[Any]) -> None:
        size = max(engine.device_memory_size_v2 for engine in engines)
        self.memory = torch.empty(size, dtype=torch.uint8, device=DEVICE)  # aligned to 512 bytes; 256 are asked for
        self.stream = torch.cuda.Stream()

    def context(self, engine: Any) -> Any:
        """An `IExecutionContext` in the shared memory, or None."""
        import tensorrt as trt

        context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is not None:
            context.set_device_memory(self.memory.data_ptr(), self.memory.numel())
        return context


class FixedNetwork:
    """A network of exactly one batch, its inputs and its output always at the same addresses.

    Nothing is allocated or bound in a pass, and the launches of one can be recorded as a CUDA graph and replayed.

    Args:
        name: what messages call it.
        engine: a deserialized `ICudaEngine` with its weights.
        inputs: a tensor of the right shape and dtype for each input, by name, in the order of the call.
        workspace: shared with the other networks.

    Raises:
        FglError: no memory on the GPU, or the engine does not take these inputs.
    """

    def __init__(self, name: str, engine: Any, inputs: dict[str, Tensor], workspace: Workspace) -> None:
        self.name, self.engine, self.workspace = name, engine, workspace
        self.context = workspace.context(engine)
        if self.context is None:
            raise FglError(f"tensorrt has no GPU memory for {name}", "lower unet_batch or vae_batch")
        self.inputs = [tensor.to(DEVICE, copy=True) for tensor in inputs.values()]
        for key, buffer in zip(inputs, self.inputs, strict=True):
            if not self.context.set_input_shape(key, tuple(buffer.shape)):
                raise FglError(f"tensorrt refuses {key} {list(buffer.shape)} for {name}", "build the engine again")
            self._bind(key, buffer)
        self.output = torch.empty(tuple(self.context.get_tensor_shape(OUTPUT)), device=DEVICE)
        self._bind(OUTPUT, self.output)
        self.stream = workspace.stream
        self.launch = self._captured()

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Run one batch; the result is a tensor of its own on the device of the first input."""
        current = torch.cuda.current_stream()
        for buffer, given in zip(self.inputs, inputs, strict=True):
            assert given.shape == buffer.shape, f"{self.name}: {given.shape} for a buffer of {buffer.shape}"
            buffer.copy_(given)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            self.launch()
        current.wait_stream(self.stream)
        return self.output.to(inputs[0].device, copy=True)

    def _captured(self) -> Callable[[], None]:
        """Replay of the recorded launches, or plain launches where they cannot be recorded.

        The first pass initializes and must not be recorded, as in NVIDIA's trtexec (sampleInference.cpp).
        """
        graph = torch.cuda.CUDAGraph()
        self.stream.wait_stream(torch.cuda.current_stream())
        # When a capture fails, torch.cuda.graph leaves its stream the current one: the outer block restores it.
        with torch.cuda.stream(self.stream):
            self._enqueue()
            self.stream.synchronize()
            try:
                with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                    self._enqueue()
            except (RuntimeError, FglError) as error:
                note(f"tensorrt: {self.name} runs without a CUDA graph ({error})")
                return self._enqueue
        return graph.replay

    def _enqueue(self) -> None:
        if not self.context.execute_async_v3(self.stream.cuda_stream):
            raise FglError(f"tensorrt could not run {self.name}", "use another backend")

    def _bind(self, key: str, buffer: Tensor) -> None:
        if not self.context.set_tensor_address(key, buffer.data_ptr()):
            raise FglError(f"tensorrt knows no tensor {key} in {self.name}", "build the engine again")
