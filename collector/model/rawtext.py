"""Text that an attacker chose, made fit for JSON, SQL and a terminal."""

from __future__ import annotations

LIMIT = 4096


def printable(text: str, *, limit: int = LIMIT) -> str:
    r"""
    Return *text* with everything that is not printable as ``\xNN`` or ``\uNNNN``, at most *limit* characters.

    File names and process names are bytes; Python carries those that are not UTF-8 as lone surrogates,
    which neither JSON nor SQLite take.
    """
    if text.isprintable() and len(text) <= limit:
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text[:limit])[:limit]


def _escape(char: str) -> str:
    """Write one character; a byte that was no UTF-8 as that byte."""
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
