"""Networks that a stranger's config describes, never larger than the weights beside it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from os import PathLike
from typing import Any

import torch
from torch.nn.modules import module

from fglfast.base.errors import BadInputError
from fglfast.base.untrusted import loading
from fglfast.generator.configs import Announced
from fglfast.generator.weights import HINT

# A weight may be shared, and stand in several modules of which most have none.
SLACK, MODULES_OF_A_TENSOR = 2, 50


@contextmanager
def outlined(weights: Announced, what: str | PathLike[str]) -> Iterator[None]:
    """Build networks on PyTorch's meta device, without memory, and stop when they outgrow the weights of their file.

    A config of a few bytes may describe a billion layers, or layers of a billion channels. The weights are those that
    came with it; `what` names the folder or file.

    Raises:
        BadInputError: the networks have more tensors, elements or modules than the weights could fill, or the config
            describes none.
    """
    left = {
        "tensors": SLACK * weights.tensors + 100,
        "elements": SLACK * weights.elements + (1 << 20),
        "modules": MODULES_OF_A_TENSOR * weights.tensors + 1000,
    }

    def take(**amounts: int) -> None:
        for name, amount in amounts.items():
            left[name] -= amount
            if left[name] < 0:
                raise BadInputError(
                    f"{what}: its config describes a network with more {name} than its weights fill", HINT
                )

    def tensor(owner: Any, name: str, value: Any) -> None:
        take(tensors=1, elements=0 if value is None else value.numel())

    with ExitStack() as stack:
        for hooked in (
            module.register_module_parameter_registration_hook(tensor),
            module.register_module_buffer_registration_hook(tensor),
            module.register_module_module_registration_hook(lambda *_: take(modules=1)),
        ):
            stack.callback(hooked.remove)
        stack.enter_context(torch.device("meta"))
        stack.enter_context(loading(what))
        yield
