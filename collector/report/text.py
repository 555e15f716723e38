"""Times and texts of an incident, for people: cut to fit, with local times that name their offset."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from collector.model.text import printable
from collector.model.units import size

__all__ = ["age", "fitted", "local", "one_line", "ordinal", "rounded", "utc"]

ELLIPSIS = "…"
_SPACES = re.compile(r"\s+")


def utc(at_s: float) -> datetime | None:
    """Return a time as a date; ``None`` if it is out of the calendar's range, or not known."""
    try:
        return datetime.fromtimestamp(at_s, UTC) if at_s > 0 else None
    except (OverflowError, ValueError, OSError):
        return None


def local(at: datetime | None) -> str:
    """Return ``2026-11-28 00:19:33 +01:00``, by the clock on the wall here; empty if it is not known."""
    if at is None:
        return ""
    shown = at.astimezone()
    offset = f"{shown:%z}"
    return f"{shown:%Y-%m-%d %H:%M:%S} {offset[:3]}:{offset[3:5]}"


def age(seconds: float) -> str:
    """Return a length of time with one unit, rounded down: ``42 s``, ``10 min``, ``3 h``, ``2 days``."""
    if seconds < 60:
        return f"{max(seconds, 0):.0f} s"
    for unit, length, next_length in (("min", 60, 3600), ("h", 3600, 172_800)):
        if seconds < next_length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds // 86_400)} days"


def ordinal(number: int) -> str:
    """Return ``1st``, ``2nd``, ``11th``."""
    ending = "th" if 11 <= number % 100 <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def rounded(size_bytes: float) -> str:
    """Return a size for a glance: ``21 GiB``, ``1.1 GiB``, ``16 MiB``; see `units.size`."""
    number, _, unit = size(size_bytes).partition(" ")
    return f"{round(float(number))} {unit}" if float(number) >= 10 else f"{number.removesuffix('.0')} {unit}"


def one_line(text: str, *, limit: int = 4096) -> str:
    """Return *text* with its white space, line breaks included, as single spaces, and all else escaped."""
    return printable(_SPACES.sub(" ", text[: 4 * limit]).strip(), limit=limit)


def fitted(text: str, width: int) -> str:
    """Return *text*, cut with an ellipsis if it takes more than *width* columns."""
    if columns(text) <= width:
        return text
    kept, used = "", 1
    for character in text:
        used += _columns_of(character)
        if used > width:
            break
        kept += character
    return (kept.rstrip() + ELLIPSIS)[: max(width, 0)]


def columns(text: str) -> int:
    """Return how many columns of a terminal *text* takes: East Asian characters take two, combining ones none."""
    return len(text) if text.isascii() else sum(map(_columns_of, text))


def _columns_of(character: str) -> int:
    if character.isascii():
        return 1
    import unicodedata  # noqa: PLC0415 - 3 ms that few names need

    if unicodedata.combining(character) or unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
