"""Text for people: names that an attacker chose cannot move their cursor."""

from __future__ import annotations

from datetime import UTC, datetime

from collector.model.text import escape_name

__all__ = ["escape_name", "size", "when"]


def size(size_bytes: float) -> str:
    """Return ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def when(at_s: float) -> str:
    """Return a UTC time, to the second."""
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M:%SZ}"
