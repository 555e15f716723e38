"""What is wrong in a configuration, with its place."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import msgspec


class Mark(msgspec.Struct, frozen=True):
    """A place in a file as editors count: line and column from 1; 0 for the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        """Return the place as editors and terminals can jump to it."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class Severity(enum.StrEnum):
    """
    What a diagnostic means: the configuration cannot be used; it can and probably should not; or all may be well.

    A note is about what its reader may not expect, or what this machine lacks at the moment: no check fails for it.
    """

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Diagnostic(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong where, and what the reader may do about it."""

    mark: Mark
    message: str
    hint: str | None = None
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        """Return one line, as compilers print it."""
        return f"{self.mark}: {self.severity}: {self.message}" + (f" ({self.hint})" if self.hint else "")


def errors(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Return the diagnostics that keep the configuration from being used."""
    return tuple(diagnostic for diagnostic in diagnostics if diagnostic.severity is Severity.ERROR)
