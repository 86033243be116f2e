"""Names that a stranger may choose: all are fit to be shown, and a client's is fit to be a file name."""

from typing import Annotated

from pydantic import AfterValidator, FailFast, Field

from fglfast.base.console import visible

MAX_CLASSES, MAX_CLASS_NAME, MAX_CLIENT_NAME = 100_000, 200, 128


def unfit(text: str) -> str:
    """Why a name cannot be shown to people, on one line; empty if it can."""
    if not text.strip():
        return "empty"
    return "control characters" if visible(text) != text or "\n" in text or "\t" in text else ""


def _printable(text: str) -> str:
    if problem := unfit(text):
        raise ValueError(problem)
    return text


def _file_name(text: str) -> str:
    if "/" in text or "\\" in text or text in {".", ".."}:
        raise ValueError("a path, not a name")
    return text


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{name!r} is there twice")
        seen.add(name)
    return names


ClassName = Annotated[str, Field(max_length=MAX_CLASS_NAME), AfterValidator(_printable)]
ClientName = Annotated[str, Field(max_length=MAX_CLIENT_NAME), AfterValidator(_printable), AfterValidator(_file_name)]
# Stops at the first bad name: a message for each of millions would take gigabytes.
ClassNames = Annotated[
    tuple[ClassName, ...], FailFast(), Field(min_length=1, max_length=MAX_CLASSES), AfterValidator(_distinct)
]
