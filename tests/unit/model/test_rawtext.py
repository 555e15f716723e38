"""Hostile text."""

from __future__ import annotations

import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.model.rawtext import printable


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"engine", "engine"),
        (b"core.a\\x20b", "core.a\\x20b"),
        (b"\x1b[2J\xff\n", r"\x1b[2J\xff\x0a"),
        ("ü\u202e".encode(), r"ü\u202e"),
    ],
)
def test_printable_shows_what_is_hidden(raw: bytes, expected: str) -> None:
    """Control characters, escapes, directional marks and bytes that are no text; a path stays a path."""
    assert printable(os.fsdecode(raw)) == expected


@given(st.binary(max_size=300), st.integers(1, 100))
def test_printable_fits_everywhere(raw: bytes, limit: int) -> None:
    """Whatever comes in, JSON and SQLite take what goes out."""
    text = printable(os.fsdecode(raw), limit=limit)
    assert len(text) <= limit
    assert text.isprintable()
    msgspec.json.encode(text)
