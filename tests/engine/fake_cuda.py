"""As much of `torch.cuda` as an engine needs, on the CPU: streams that only tell their order, graphs that replay."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from binding_checks import State

from fglfast.engine import yardstick


class Stream:
    """A stream by its handle; 0 is the default one."""

    made = 0

    def __init__(self) -> None:
        Stream.made += 1
        self.cuda_stream = Stream.made

    def wait_stream(self, other: "Stream") -> None:
        EVENTS.append(f"{self.cuda_stream} waits for {other.cuda_stream}")

    def synchronize(self) -> None:
        EVENTS.append(f"{self.cuda_stream} synchronizes")


EVENTS: list[str] = []
CURRENT: list[Stream] = []


class CUDAGraph:
    """Launches recorded once; a replay does them again on the current stream."""

    def __init__(self) -> None:
        self.launches: list[Callable[[], None]] = []

    def replay(self) -> None:
        EVENTS.append(f"replay on {CURRENT[-1].cuda_stream}")
        for launch in self.launches:
            launch()


class stream:  # noqa: N801 (torch's name)
    def __init__(self, chosen: Stream) -> None:
        self.chosen = chosen

    def __enter__(self) -> None:
        self.depth = len(CURRENT)
        CURRENT.append(self.chosen)

    def __exit__(self, *error: object) -> None:
        del CURRENT[self.depth :]


class graph:  # noqa: N801 (torch's name)
    """Capture; like the real one it leaves its stream the current one when the capture fails."""

    def __init__(
        self, cuda_graph: CUDAGraph, pool: Any = None, stream: Any = None, capture_error_mode: str = "global"
    ) -> None:
        assert stream.cuda_stream != 0 and capture_error_mode in ("global", "thread_local", "relaxed")
        self.cuda_graph, self.stream = cuda_graph, stream

    def __enter__(self) -> None:
        CURRENT.append(self.stream)
        State.recording.append(self.cuda_graph.launches)

    def __exit__(self, *error: object) -> None:
        State.recording.pop()
        if "capture" in State.fail:
            raise RuntimeError("operation failed due to a previous error during capture")
        CURRENT.pop()


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `torch.cuda` have one GPU, an H200."""
    default = Stream()
    default.cuda_stream = 0
    EVENTS.clear()
    CURRENT[:] = [default]
    replaced = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda: "NVIDIA H200",
        "get_device_capability": lambda: (9, 0),
        "current_stream": lambda: CURRENT[-1],
        "Stream": Stream,
        "stream": stream,
        "CUDAGraph": CUDAGraph,
        "graph": graph,
    }
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(yardstick, "own_device", lambda: "cpu")
