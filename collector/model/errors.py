"""One error tree. The message says what happened to what; the hint is the reader's next action."""

from __future__ import annotations

from errno import EACCES, EPERM

from collector.model.diagnostics import Diagnostic


class CollectorError(Exception):
    """Root of all errors that the program raises on purpose."""

    exit_code: int = 70  # EX_SOFTWARE, sysexits.h

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(CollectorError):
    """The command line asks for something that does not exist."""

    exit_code = 64  # EX_USAGE


class UnreachableError(CollectorError):
    """No daemon answers on the control socket."""

    exit_code = 69  # EX_UNAVAILABLE


class ArchiveError(CollectorError):
    """The archive cannot be created, written or read."""

    exit_code = 73  # EX_CANTCREAT


class PressureError(CollectorError):
    """Refused for memory pressure; nothing was archived."""

    exit_code = 75  # EX_TEMPFAIL


class DeniedError(CollectorError):
    """This user lacks the permission."""

    exit_code = 77  # EX_NOPERM


class StepError(CollectorError):
    """A collector cannot produce its evidence; the step fails, the incident goes on."""


class PlanError(CollectorError):
    """A copy plan was asked for with arguments that no destination accepts."""


class CopyError(CollectorError):
    """A copy stopped before its end; *errno* is the kernel's reason where there is one."""

    exit_code = 73

    def __init__(self, message: str, *, hint: str | None = None, errno: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.errno = errno
        if errno in (EACCES, EPERM):
            self.exit_code = DeniedError.exit_code


class SignalError(CollectorError):
    """The signal *number* ended a command before its work was done."""

    def __init__(self, message: str, *, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number  # what a shell makes of a program that the signal ended


class ConfigError(CollectorError):
    """The configuration is wrong; *diagnostics* holds all that was found, warnings included."""

    exit_code = 78  # EX_CONFIG

    def __init__(self, diagnostics: tuple[Diagnostic, ...], *, hint: str | None = None) -> None:
        super().__init__("\n".join(map(str, diagnostics)), hint=hint)
        self.diagnostics = diagnostics
