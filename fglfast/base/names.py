"""Names that a stranger may choose: all are fit to be shown, and a client's is fit to be a file name."""

from typing import Annotated

from pydantic import AfterValidator, FailFast, Field

from fglfast.base.console import visible

MAX_CLASSES, MAX_CLASS_NAME, MAX_CLIENT_NAME = 100_000, 200, 128


# What is drawn as nothing, first and last: Default_Ignorable_Code_Point of Unicode 16.0 (DerivedCoreProperties.txt at
# unicode.org/Public/16.0.0/ucd), and the Braille pattern without a dot, which is drawn as a blank.
UNDRAWN = (
    *((0x00AD, 0x00AD), (0x034F, 0x034F), (0x061C, 0x061C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F)),
    *((0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x2800, 0x2800), (0x3164, 0x3164), (0xFE00, 0xFE0F)),
    *((0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF)),
)


def drawn(text: str) -> str:
    """The text without letters that are drawn as nothing, wherever they are."""
    if text.isascii():
        return text
    return "".join(letter for letter in text if not any(first <= ord(letter) <= last for first, last in UNDRAWN))


def unfit(text: str) -> str:
    """Why a name cannot be shown to people, on one line; empty if it can."""
    if not drawn(text).strip():
        return "nothing of it can be seen" if text.strip() else "empty"
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
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.get(seen_as := drawn(name))) is not None:
            twice = f"{name!r} is there twice" if name == other else f"{other!r} and {name!r} cannot be told apart"
            raise ValueError(twice)
        seen[seen_as] = name
    return names


ClassName = Annotated[str, Field(max_length=MAX_CLASS_NAME), AfterValidator(_printable)]
ClientName = Annotated[str, Field(max_length=MAX_CLIENT_NAME), AfterValidator(_printable), AfterValidator(_file_name)]
# Stops at the first bad name: a message for each of millions would take gigabytes.
ClassNames = Annotated[
    tuple[ClassName, ...], FailFast(), Field(min_length=1, max_length=MAX_CLASSES), AfterValidator(_distinct)
]
