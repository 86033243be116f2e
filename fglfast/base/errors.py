"""What can go wrong, each kind with its exit code."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's exit status means; docs/formats.md lists the same."""

    DONE = 0
    FAILURE = 1
    USAGE = 2
    MISSING_EXTRA = 3
    BAD_INPUT = 4
    INCOMPLETE = 5
    INTERRUPTED = 130


class FglError(Exception):
    """An error a user can act on: one line says what is wrong and where, one how to mend it.

    Attributes:
        message: what is wrong and where.
        hint: how to mend it; may be empty.
        exit_code: the status that the command ends with.
    """

    exit_code = ExitCode.FAILURE

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(FglError):
    """Options that contradict each other, or a value out of range."""

    exit_code = ExitCode.USAGE


class MissingExtraError(FglError):
    """A package or backend that is not installed; the hint is the install command."""

    exit_code = ExitCode.MISSING_EXTRA


class BadInputError(FglError):
    """A file from outside that cannot be used as it is."""

    exit_code = ExitCode.BAD_INPUT


class IncompleteError(FglError):
    """Work that stopped early and goes on when the same command is run again."""

    exit_code = ExitCode.INCOMPLETE
