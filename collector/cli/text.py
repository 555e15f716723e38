"""Text for people: names that an attacker chose cannot move their cursor."""

from __future__ import annotations

from datetime import UTC, datetime

from collector.model.text import escape_name
from collector.model.units import size

__all__ = ["escape_lines", "escape_name", "size", "when"]


def escape_lines(text: str) -> str:
    """Return *text* with its line breaks as they are, and everything else that is not printable escaped."""
    return "\n".join(map(escape_control, text.split("\n")))


def escape_control(line: str) -> str:
    """Return a line of a message, whose names may be escaped already: backslashes stay as they are."""
    return line if line.isprintable() else escape_name(line)


def when(at_s: float) -> str:
    """Return a UTC time, to the second; the bare number where no calendar has it."""
    try:
        return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M:%SZ}"
    except (OverflowError, ValueError, OSError):
        return f"{at_s:g} s"
