"""
Untrusted text, made safe to show and to store.

Process names, file names and command lines are bytes that an attacker can choose. `escape` turns them into printable
Unicode, reversibly: what is not printable (control characters, terminal escapes, directional marks, invalid UTF-8)
becomes ``\\xNN`` byte by byte, and a backslash ``\\\\``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import msgspec

from collector.model.artifact import Truncated

PIECE_BYTES = 65_536
# Of 65,530 mapped files, as many as vm.max_map_count allows, the rows take 7 MiB; of 10,000 threads of a core 12 MiB.
MAX_ROWS_BYTES = 16 << 20

_ESCAPED = re.compile(rb"\\(?:x([0-9a-f]{2})|\\)")
_encode = msgspec.json.Encoder().encode


def escape(raw: bytes) -> str:
    """Return *raw* as printable text without line breaks, tabs or control characters; see the module."""
    if raw.isascii():
        text = raw.decode("ascii")
        if text.isprintable() and "\\" not in text:
            return text
    return "".join(map(_escape_character, raw.decode("utf-8", "surrogateescape")))


def escape_name(name: str) -> str:
    """Escape a file name as `os` functions return it."""
    return escape(name.encode("utf-8", "surrogateescape"))


def unescape_name(text: str) -> str:
    """Return the file name that `escape_name` made *text* of."""
    raw = _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]) if found[1] else b"\\", text.encode())
    return raw.decode("utf-8", "surrogateescape")


def escape_lines(raw: bytes) -> str:
    """Escape *raw* except for line breaks and tabs; for the kernel's own files."""
    return "\n".join("\t".join(map(escape, line.split(b"\t"))) for line in raw.split(b"\n"))


def printable(text: str, *, limit: int = 4096) -> str:
    """
    Escape what is not printable in *text*, except for backslashes, and cut it at *limit* characters.

    For text that is shown and stored but never converted back to bytes.
    """
    if text.isprintable() and len(text) <= limit:
        return text
    shown = (character if character.isprintable() else _escape_character(character) for character in text[:limit])
    return "".join(shown)[:limit]


def parse_number(text: str | None) -> int | None:
    """Return a number of 1 to 17 digits, enough for a time in microseconds; ``None`` for any other text."""
    return int(text) if text and len(text) <= 17 and text.isascii() and text.isdigit() else None


@lru_cache(maxsize=4096)  # 62 KiB of escapes in an exit file took 45 ms without
def _escape_character(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


def jsonl(rows: Iterable[Any], *, cut: str | None = None) -> Iterator[bytes]:
    """
    Yield *rows* as JSON lines, in pieces of about 64 KiB; a `Truncated` from *rows* comes after the last piece.

    What they describe may be a few KiB that somebody wrote: beyond `MAX_ROWS_BYTES` the stream ends with `Truncated`.

    Args:
        rows: Anything that msgspec can encode.
        cut: Why rows are missing; the stream then ends with `Truncated`.
    """
    yield from joined(_lines(rows))
    if cut is not None:
        raise Truncated(cut)


def _lines(rows: Iterable[Any]) -> Iterator[bytes]:
    left = MAX_ROWS_BYTES
    for number, row in enumerate(rows):
        line = _encode(row) + b"\n"
        left -= len(line)
        if left < 0:
            raise Truncated(f"only the first {number} rows were written: all of them exceed {MAX_ROWS_BYTES >> 20} MiB")
        yield line


def json(document: Any) -> bytes:
    """Return *document* as indented JSON with a final line break."""
    return msgspec.json.format(_encode(document), indent=2) + b"\n"


def joined(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield *lines* in pieces of about 64 KiB; a `Truncated` from *lines* comes after the last piece."""
    buffer = bytearray()
    cut: Truncated | None = None
    try:
        for line in lines:
            buffer += line
            if len(buffer) >= PIECE_BYTES:
                yield bytes(buffer)
                buffer.clear()
    except Truncated as exc:
        cut = exc
    if buffer:
        yield bytes(buffer)
    if cut is not None:
        raise cut
