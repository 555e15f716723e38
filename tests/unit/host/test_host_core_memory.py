"""The memory in a core file, by a segment table that nobody vouches for."""

from __future__ import annotations

import struct

import pytest

from collector.host.core_memory import FileMemory
from collector.host.core_segments import SegmentTable
from collector.host.elfcore import PT_LOAD, Layout

X86_64 = Layout(word=8, order="<", machine="x86_64")


def table(offset: int) -> SegmentTable:
    """Return a table with one segment: 4 KiB at 0x1000, from *offset* on."""
    return SegmentTable(X86_64, struct.pack("<IIQQQQQQ", PT_LOAD, 4, offset, 0x1000, 0, 4096, 4096, 4096))


@pytest.mark.parametrize("offset", [1 << 20, (1 << 63) - 8, 1 << 63, (1 << 64) - 1])
def test_memory_beyond_what_a_file_can_hold_is_missing(core_fd: int, offset: int) -> None:
    """Like memory beyond the end of the file; neither is an error of the reader's."""
    assert FileMemory(core_fd, table(offset)).read(0x1000, 64) == b""
