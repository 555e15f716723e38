"""Text for terminals: names that an attacker chose cannot move the cursor."""

from __future__ import annotations

from collector.model.text import escape_name, printable
from collector.model.units import counted, size
from collector.report.text import local, utc

__all__ = ["counted", "escape_name", "printable", "printable_line", "printable_lines", "size", "when"]


def printable_lines(text: str) -> str:
    """Return *text* with everything but its line breaks and what is printable escaped."""
    return "\n".join(map(printable, text.split("\n")))


def printable_line(line: str) -> str:
    """Return *line*, escaped if it could affect the terminal."""
    return line if line.isprintable() else escape_name(line)


def when(at_s: float) -> str:
    """Return a time, as `report.text.local` does; the bare number if it is out of the calendar's range."""
    return local(utc(at_s)) or f"{at_s:g} s"
