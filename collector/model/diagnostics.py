"""A finding in the configuration, with its place."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import msgspec


class Mark(msgspec.Struct, frozen=True):
    """A place in a file as editors count: line and column from 1; 0 where the file as a whole is meant."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        """Write the place so that editors and terminals can jump to it."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class Severity(enum.StrEnum):
    """Whether the configuration may be used at all."""

    ERROR = "error"
    WARNING = "warning"


class Diagnostic(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong where, and what the reader may do about it."""

    mark: Mark
    message: str
    hint: str | None = None
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        """Write one line, as compilers do."""
        return f"{self.mark}: {self.severity}: {self.message}" + (f" ({self.hint})" if self.hint else "")


def errors(problems: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Return those without which the configuration could be used."""
    return tuple(problem for problem in problems if problem.severity is Severity.ERROR)
