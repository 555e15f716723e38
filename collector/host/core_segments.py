"""
The segment table of a core: which memory a process had, and how much of it its core holds.

The kernel writes one PT_LOAD per mapping, by address. The table is read where it is needed, never as a whole: of 65,530
mappings it takes 3.5 MiB as it is, and 13 as objects.

Source: elf(5), ``Elf64_Phdr``; elf_core_dump() in fs/binfmt_elf.c (Linux 6.18).
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple, overload

from collector.host.elfcore import PT_LOAD, PT_NOTE, Layout, entry_bytes, header_bytes, program_header

PF_X, PF_W, PF_R = 1, 2, 4
MAX_ENTRIES = 0xFFFE
"""More need a section header at the end of the file: PN_XNUM."""

ALIGN = 4096


class Segment(NamedTuple):
    """One PT_LOAD: *file_bytes* of its *memory_bytes* are in the file, from *offset* on."""

    start: int
    memory_bytes: int
    offset: int
    file_bytes: int
    flags: int

    @property
    def end(self) -> int:
        return self.start + self.memory_bytes


class SegmentTable(Sequence[Segment]):
    """
    The PT_LOAD entries of a core.

    Args:
        layout: Of the core.
        raw: The whole segment table.
    """

    def __init__(self, layout: Layout, raw: bytes | memoryview) -> None:
        self._layout = layout
        self._raw = raw
        self._entry = entry_bytes(layout)
        kinds = (layout.unpack("I", raw, at)[0] for at in range(0, len(raw) - self._entry + 1, self._entry))
        loads = [number for number, kind in enumerate(kinds) if kind == PT_LOAD]
        self._first = loads[0] if loads else 0
        self._count = loads[-1] + 1 - self._first if loads else 0

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Segment: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Segment]: ...

    def __getitem__(self, index: int | slice) -> Segment | Sequence[Segment]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        _, flags, offset, start, size, memory = program_header(
            self._layout, self._raw, (self._first + index) * self._entry
        )
        return Segment(start, memory, offset, size, flags)

    def find(self, address: int) -> Segment | None:
        """Return the segment that holds *address*."""
        index = self._before(address)
        return self[index] if index >= 0 and address < self[index].end else None

    def after(self, address: int) -> Segment | None:
        """Return the first segment that begins after *address*."""
        index = self._before(address) + 1
        return self[index] if index < len(self) else None

    def _before(self, address: int) -> int:
        return bisect_right(self._starts, address) - 1

    @cached_property
    def _starts(self) -> array[int]:
        raw = memoryview(self._raw)[self._first * self._entry : (self._first + self._count) * self._entry]
        form, at = ("IIQQQQQQ", 3) if self._layout.word == 8 else ("IIIIIIII", 2)
        return array("Q", (entry[at] for entry in struct.iter_unpack(self._layout.order + form, raw)))


def core_head(
    layout: Layout, header: bytes, note_bytes: int, loads: Iterable[Segment], *, count: int
) -> Iterator[bytes]:
    """
    Yield the ELF header and the segment table of a core, which its notes follow directly.

    Args:
        layout: Of the core.
        header: The kernel's ELF header, from which machine and flags are taken.
        note_bytes: Length of the notes.
        loads: The segments, *count* of them; their offsets count from the end of the notes, see `content_offset`.
        count: At most `MAX_ENTRIES`.
    """
    yield _header(layout, header, count + 1)
    notes_at = notes_end(layout, 0, count)
    yield _entry(layout, PT_NOTE, Segment(0, 0, notes_at, note_bytes, 0), align=4)
    data_at = content_offset(layout, note_bytes, count)
    for load in loads:
        yield _entry(layout, PT_LOAD, load._replace(offset=load.offset + data_at), align=ALIGN)


def notes_end(layout: Layout, note_bytes: int, count: int) -> int:
    """Return where the notes of a core of *count* segments end."""
    return header_bytes(layout.word) + (count + 1) * entry_bytes(layout) + note_bytes


def content_offset(layout: Layout, note_bytes: int, count: int) -> int:
    """Return where the memory of such a core begins: at a whole page."""
    return -(-notes_end(layout, note_bytes, count) // ALIGN) * ALIGN


def _header(layout: Layout, header: bytes, entries: int) -> bytes:
    size, word = header_bytes(layout.word), layout.word
    made = bytearray(header[:size])
    words = layout.order + ("QQQ" if word == 8 else "III")
    struct.pack_into(words, made, 24, 0, size, 0)  # e_entry, e_phoff, e_shoff
    struct.pack_into(layout.order + "HHHHHH", made, 28 + 3 * word, size, entry_bytes(layout), entries, 0, 0, 0)
    return bytes(made)


def _entry(layout: Layout, kind: int, segment: Segment, *, align: int) -> bytes:
    start, memory, offset, size, flags = segment
    if layout.word == 8:
        return struct.pack(layout.order + "IIQQQQQQ", kind, flags, offset, start, 0, size, memory, align)
    return struct.pack(layout.order + "IIIIIIII", kind, offset, start, 0, size, memory, flags, align)
