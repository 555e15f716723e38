"""Text for terminals: names that an attacker chose cannot move the cursor."""

from __future__ import annotations

from datetime import UTC, datetime

from collector.model.text import escape_name, printable
from collector.model.units import size

__all__ = ["escape_name", "printable", "printable_lines", "size", "when"]


def printable_lines(text: str) -> str:
    """Return *text* with everything but its line breaks and what is printable escaped."""
    return "\n".join(map(printable, text.split("\n")))


def when(at_s: float) -> str:
    """Return a UTC time, to the second; the bare number if it is out of the calendar's range."""
    try:
        return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M:%SZ}"
    except (OverflowError, ValueError, OSError):
        return f"{at_s:g} s"
