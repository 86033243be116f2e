"""A GPU on which nothing is computed: PyTorch's fake tensors there, real ones on the host, transfers counted.

What lies on it has a shape and no numbers: to look at one (an `item`, a `nonzero`, an `if`) raises, as does an
operation of tensors from both sides, unless the host's has no dimension: PyTorch hands those over with the kernel.
"""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = "cuda:0"  # with a number: for "cuda" alone PyTorch asks the driver which

COPIES = (torch.ops.aten.to, torch.ops.aten._to_copy, torch.ops.aten.copy_)  # the first within inference mode


class FakeGpu(TorchDispatchMode):
    """Within it `DEVICE` is there.

    Attributes:
        moved: shapes of what went over to the device, and of what came back, each with how often.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode()
        self.moved: dict[str, Counter[tuple[int, ...]]] = {"to": Counter(), "from": Counter()}

    def __enter__(self) -> "FakeGpu":
        torch._C._ensureCUDADeviceGuardSet()  # which is what FakeTensorMode does where there is no GPU
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        # Both ask the driver for the device before they come here.
        self.patch.setattr(Tensor, "pin_memory", lambda tensor, device=None: tensor)
        self.patch.setattr(Tensor, "contiguous", _contiguous)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.patch.undo()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tree_leaves((args, kwargs or {}))
        named = any(isinstance(leaf, torch.device) and leaf.type == "cuda" for leaf in given)
        if not named and not any(isinstance(leaf, FakeTensor) for leaf in given):
            return func(*args, **(kwargs or {}))
        args, kwargs = tree_map_only(Tensor, self._seen, (args, kwargs or {}))
        with self.fake:
            output = func(*args, **kwargs)
        self._count(func, [leaf for leaf in given if isinstance(leaf, Tensor)], output)
        return output

    def _seen(self, tensor: Tensor) -> Tensor:
        return tensor if isinstance(tensor, FakeTensor) else self.fake.from_tensor(tensor)

    def _count(self, func: Any, given: list[Tensor], output: Any) -> None:
        if func.overloadpacket not in COPIES:
            return
        source, target = given[-1].device.type, output.device.type
        if source != target:
            self.moved["to" if target == "cuda" else "from"][tuple(output.shape)] += 1


def on_gpu(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor on the device; to be made within the mode."""
    return torch.empty(shape, device=DEVICE, dtype=dtype)


def _contiguous(tensor: Tensor, *, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    return tensor.clone(memory_format=memory_format)
