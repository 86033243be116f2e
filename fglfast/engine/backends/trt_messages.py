"""What TensorRT says while it works: errors, kept for one clear line, and how far a build is."""

import time
from functools import cache
from typing import Any

from fglfast.base.console import PLAIN_SECONDS, note
from fglfast.base.errors import FglError
from fglfast.base.wording import duration


def new(kind: Any, *arguments: Any) -> Any:
    """Make an object of TensorRT's, whose bindings answer a refusal with a TypeError and the reason in the log.

    Raises:
        FglError: it was refused.
    """
    messages = log()
    messages.errors.clear()
    try:
        return kind(*arguments, messages)
    except TypeError as error:
        hint = "check the NVIDIA driver, or use another backend"
        raise FglError(f"tensorrt cannot make a {kind.__name__}: {messages.reason()}", hint) from error


def problem(parser: Any) -> str:
    """The first error of a parser in one line."""
    if not parser.num_errors:
        return str(log().reason())
    first = parser.get_error(0)
    more = f" (and {parser.num_errors - 1} more)" if parser.num_errors > 1 else ""
    return f"{first.node_operator()} {first.node_name()}: {' '.join(first.desc().split())}{more}"


@cache
def log() -> Any:
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


def progress(what: str) -> Any:
    """A monitor of a build, which takes minutes: every ten seconds it says what is done; TensorRT's threads call it."""
    import tensorrt as trt

    class Progress(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.begun = self.said = time.monotonic()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            now = time.monotonic()
            if now - self.said > PLAIN_SECONDS:
                self.said = now
                steps = self.steps.get(phase_name, step + 1)
                note(f"tensorrt: {what}: {phase_name}, {step + 1} of {steps}, after {duration(now - self.begun)}")
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Progress()
