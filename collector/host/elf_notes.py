"""The notes of a core as they are in memory, each with its owner's name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from collector.host.elfcore import MAX_NOTES, Layout, padded


class RawNote(NamedTuple):
    """A note whose description is *desc*; *end* is where the next one begins."""

    type: int
    name: bytes
    desc: memoryview
    end: int


def raw_notes(layout: Layout, data: memoryview) -> Iterator[RawNote]:
    """Yield the notes that are in *data* as a whole."""
    at = 0
    for _ in range(MAX_NOTES):
        if at + 12 > len(data):
            return
        name_bytes, desc_bytes, kind = layout.unpack("III", data, at)
        desc_at = at + 12 + padded(name_bytes)
        end = desc_at + padded(desc_bytes)
        if end > len(data):
            return
        name = bytes(data[at + 12 : at + 12 + name_bytes]).rstrip(b"\0")
        yield RawNote(kind, name, data[desc_at : desc_at + desc_bytes], end)
        at = end
