"""Values that people ask for on the command line, with ``*``, ``?`` and ``[…]``."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from collector.model.identity import COMM_LENGTH


def fits_any(values: Iterable[str | None], patterns: Iterable[str]) -> bool:
    """Return whether one of *values* is one of *patterns*; a longer name finds the command that the kernel cut."""
    known = [value for value in values if value is not None]
    return any(_fits(value, pattern) for pattern in patterns for value in known)


def _fits(value: str, pattern: str) -> bool:
    if value == pattern or (len(value) == COMM_LENGTH and value == pattern[:COMM_LENGTH]):
        return True
    return any(wild in pattern for wild in "*?[") and fnmatch.fnmatchcase(value, pattern)
