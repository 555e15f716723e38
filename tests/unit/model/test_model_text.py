from __future__ import annotations

import os
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.model.artifact import Truncated
from collector.model.text import escape, escape_lines, escape_name, joined, jsonl, printable, unescape_name


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"plain name.1", "plain name.1"),
        ("grüße".encode(), "grüße"),
        (b"a\nb\tc", r"a\x0ab\x09c"),
        (b"\x1b]0;title\x07", r"\x1b]0;title\x07"),
        (b"\xff\xfe", r"\xff\xfe"),
        (b"back\\slash", r"back\\slash"),
        ("\u202eevil".encode(), r"\xe2\x80\xaeevil"),  # right-to-left override
        ("\x9b2J".encode(), r"\xc2\x9b2J"),  # CSI as one character, which terminals obey
        (b"", ""),
    ],
)
def test_escape_keeps_what_is_printable_and_encodes_the_rest(raw: bytes, text: str) -> None:
    """No name that an attacker chooses can move a cursor or start a line."""
    assert escape(raw) == text


def unescape(text: str) -> bytes:
    parts = re.split(r"(\\\\|\\x[0-9a-f]{2})", text)
    return b"".join(
        b"\\" if part == "\\\\" else bytes((int(part[2:], 16),)) if part.startswith("\\x") else part.encode()
        for part in parts
    )


@given(st.binary(max_size=200))
def test_escape_is_printable_and_reversible(raw: bytes) -> None:
    """Different names stay different."""
    text = escape(raw)
    assert text == "" or text.isprintable()
    assert unescape(text) == raw
    name = raw.decode("utf-8", "surrogateescape")
    assert escape_name(name) == text
    assert unescape_name(text) == name


def test_escape_lines_keeps_lines_and_tabs() -> None:
    """The kernel's own files keep their layout."""
    assert escape_lines(b"Name:\ta\x1bb\nUid:\t0\n") == "Name:\ta\\x1bb\nUid:\t0\n"


def test_jsonl_yields_one_line_per_row_in_bounded_pieces() -> None:
    """Rows are packed, so that a worker writes few pieces, none of them large."""
    rows = [{"n": number, "text": "x" * 90} for number in range(5000)]
    pieces = list(jsonl(rows))
    assert len(pieces) < 12
    assert max(map(len, pieces)) < 70_000
    assert [msgspec.json.decode(line) for line in b"".join(pieces).splitlines()] == rows


def test_joined_ends_truncated_after_what_was_read() -> None:
    """What was read before the source ended is passed on first."""

    def lines() -> object:
        yield b"one\n"
        raise Truncated("no more")

    pieces = joined(lines())  # type: ignore[arg-type]
    assert next(pieces) == b"one\n"
    with pytest.raises(Truncated, match="no more"):
        next(pieces)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"engine", "engine"),
        (b"core.a\\x20b", "core.a\\x20b"),
        (b"\x1b[2J\xff\n", r"\x1b[2J\xff\x0a"),
        ("ü\u202e".encode(), r"ü\xe2\x80\xae"),
    ],
)
def test_printable_shows_what_is_hidden(raw: bytes, expected: str) -> None:
    """Control characters, escapes, directional marks and bytes that are not text; a path stays a path."""
    assert printable(raw.decode("utf-8", "surrogateescape")) == expected


@given(st.binary(max_size=300), st.integers(1, 100))
def test_printable_fits_everywhere(raw: bytes, limit: int) -> None:
    """JSON and SQLite accept the result, whatever the input."""
    text = printable(os.fsdecode(raw), limit=limit)
    assert len(text) <= limit
    assert text.isprintable()
    msgspec.json.encode(text)
