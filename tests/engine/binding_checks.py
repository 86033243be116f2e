"""Classes that check their calls as pybind11 does: names, number and types of arguments. Knows nothing of TensorRT."""

import ctypes
import functools
import inspect
from collections.abc import Callable
from typing import Any, ClassVar, get_type_hints


class State:
    """What a fake does: its version, the failures a test asked for, what was called, what a CUDA graph records."""

    version = ""
    fail: ClassVar[set[str]] = set()
    calls: ClassVar[list[tuple[Any, ...]]] = []
    recording: ClassVar[list[list[Callable[[], None]]]] = []

    @classmethod
    def reset(cls, version: str) -> None:
        cls.version = version
        for kept in (cls.fail, cls.calls, cls.recording):
            kept.clear()

    @classmethod
    def called(cls, name: str) -> list[tuple[Any, ...]]:
        """The arguments of every call of a method, such as "Builder.create_network"."""
        return [arguments for called, *arguments in cls.calls if called == name]


class Dims(tuple):
    """Any sequence of integers converts to it."""


class Buffer:
    """Anything with the buffer protocol."""


def host_memory(data: bytes) -> Any:
    """An `IHostMemory`: bytes by the buffer protocol and by nothing else."""
    return type("IHostMemory", (ctypes.c_ubyte * len(data),), {"nbytes": property(len)}).from_buffer_copy(data)


def fits(value: Any, hint: Any) -> bool:
    """Whether pybind11 converts a value to a parameter's type."""
    if hint is Buffer:
        return isinstance(value, bytes | bytearray | memoryview) or hasattr(value, "nbytes")
    if hint is Dims:
        return isinstance(value, tuple | list) and all(type(size) is int for size in value)
    if hint is int:
        return type(value) is int
    return isinstance(value, hint) and getattr(value, "made", True)


class Checked:
    """Base of a fake's classes: arguments are checked, calls are kept, attributes cannot be set from outside."""

    def __init_subclass__(cls) -> None:
        cls.from_python = cls.__module__.startswith("fglfast")
        for name, member in list(vars(cls).items()):
            if not cls.from_python and inspect.isfunction(member) and (name == "__init__" or name[0] != "_"):
                setattr(cls, name, _checked(cls.__name__, name, member))

    def __setattr__(self, name: str, value: Any) -> None:
        settable = getattr(getattr(type(self), name, None), "fset", None)
        if name[0] != "_" and not self.from_python and not settable:
            raise AttributeError(f"{type(self).__name__} has no attribute {name} that can be set")
        object.__setattr__(self, name, value)


def _checked(owner: str, name: str, function: Any) -> Any:
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound, hints = signature.bind(self, *args, **kwargs), get_type_hints(function)
        given = {key: value for key, value in bound.arguments.items() if key != "self"}
        for key, value in given.items():
            if not fits(value, hints[key]):
                raise TypeError(f"{owner}.{name}(): incompatible function arguments: {key}={value!r}")
        State.calls.append((f"{owner}.{name}", *given.values()))
        if f"{owner}.{name}" in State.fail:
            return _refuse(owner, name, hints["return"])
        return function(self, *args, **kwargs)

    return call


def _refuse(owner: str, name: str, returns: Any) -> Any:
    """A refusal as the real bindings give it: False, None, or a constructor's TypeError; the reason is logged."""
    arguments = [argument for call in reversed(State.calls) for argument in call[1:]]
    logger = next(argument for argument in arguments if hasattr(argument, "log"))
    logger.log(logger.Severity.WARNING, "[fake] not the reason")
    logger.log(logger.Severity.ERROR, f"[fake] {owner}.{name}\n refused")
    if name == "__init__":
        raise TypeError("pybind11::init(): factory function returned nullptr")
    return False if returns is bool else None
