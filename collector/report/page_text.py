"""Text in pages: nothing that an attacker named becomes markup, or moves what is beside it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
from markupsafe import Markup, escape

from collector.model.text import printable

MAX_CHARACTERS = 2000
"""Of one text."""

MAX_MARKS = 2
"""Marks that stack on one character: a hundred would cover the lines above. Vietnamese needs two."""

MARKUP_BYTES = 160
"""About what a row takes beside its texts."""

T = TypeVar("T")


def shown(value: Any) -> Markup:
    """Return any value as text of the page: escaped, bounded; markup of the page's own stays."""
    if isinstance(value, Markup):
        return value
    text = "" if value is None else str(value)
    whole = len(text)
    text = text[:MAX_CHARACTERS]
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair is no text
        text = "".join(_without_stacks(text))
    text = printable(text, limit=8 * MAX_CHARACTERS)
    if whole > MAX_CHARACTERS:
        text += f"… ({whole - MAX_CHARACTERS} more characters)"
    return escape(text)


def _without_stacks(text: str) -> Iterable[str]:
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.category(character) in {"Mn", "Me"} else 0
        yield character if marks <= MAX_MARKS else f"\\u{ord(character):04x}"


def moment(at: datetime | float | None, digits: int = 0) -> Markup:
    """Return a time as the reader's clock shows it, with its offset, and in UTC for programs; *digits* are 0 or 3."""
    if at is None:
        return Markup("–")  # noqa: RUF001 - an en dash stands for nothing in tables
    try:
        known = datetime.fromtimestamp(at, UTC) if isinstance(at, float | int) else at
        utc, local = known.astimezone(UTC), known.astimezone()
    except (OverflowError, ValueError, OSError):
        return escape(f"{at} s")
    text = local.isoformat(" ", "milliseconds" if digits else "seconds")
    clock = len("2026-11-28 00:19:33.123" if digits else "2026-11-28 00:19:33")
    in_utc = utc.replace(tzinfo=None).isoformat(timespec="milliseconds")
    return Markup('<time datetime="{}Z">{} {}</time>').format(in_utc, text[:clock], text[clock:])


def span(seconds: float) -> str:
    """Return a length of time with one unit, or two."""
    if seconds < 90:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class BoundedRows(NamedTuple, Generic[T]):
    """As many rows as fit, and how many do not."""

    rows: tuple[T, ...]
    left_out: int


def bounded(found: Iterable[T], *, most_bytes: int) -> BoundedRows[T]:
    """Return the first of *found* that take at most *most_bytes* of a page."""
    kept: list[T] = []
    left_out = 0
    left = most_bytes
    for row in found:
        if left >= 0 and (left := left - weight(row)) >= 0:
            kept.append(row)
        else:
            left_out += 1
    return BoundedRows(tuple(kept), left_out)


def weight(row: Any) -> int:
    """Return about how many bytes *row* takes in a page."""
    if isinstance(row, msgspec.Struct):
        return MARKUP_BYTES + sum(weight(getattr(row, name)) for name in row.__struct_fields__)
    if isinstance(row, tuple):
        return MARKUP_BYTES + sum(map(weight, row))
    return len(shown(row).encode()) + 8
