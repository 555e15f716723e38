"""
One file of the systemd journal, read piece by piece: which entries have a field, and what an entry says.

libsystemd maps 8 MiB windows of such files, and each fault in one brings as much as the disk's readahead is set to: 200
lines of a unit from five files took 218 MiB of page cache. This takes 0.7 MiB, and needs no library.

The file may be written meanwhile, or damaged: lengths and offsets are checked, and every loop is bounded.
Source: systemd.io/JOURNAL_FILE_FORMAT.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from collector.host.journal_hash import jenkins64, siphash24
from collector.host.journal_unpack import COMPRESSED, UnpackError, unpacked
from collector.host.sparing_reader import SparingReader

SIGNATURE = b"LPKSHHRH"
HEADER = struct.Struct("<12xI8x16s16x16s32xQQ80xQ")
"""
Flags, the file's id, the last entry's boot, where the hash table is and its size, and the last entry's time in
microseconds on CLOCK_MONOTONIC.
"""

KEYED_HASH, COMPACT = 4, 16
KNOWN_FLAGS = 1 | 2 | KEYED_HASH | 8 | COMPACT
"""Incompatible features: compression by xz, lz4 and zstd (systemd 246), keyed hashes (246), 32-bit offsets (252)."""

OBJECT = struct.Struct("<BB6xQ")
DATA, ENTRY, ENTRY_ARRAY = 1, 3, 6
DATA_HEAD = struct.Struct("<16xQQ8xQQQ")
ENTRY_HEAD = struct.Struct("<16xQQQ16s8x")

MAX_PACKED_BYTES = 136 << 10
"""Of a compressed field; a block of zstd, which is unpacked as a whole, has 128 KiB at most."""
MAX_CHAIN = 4096
"""Longest chain of hash collisions or of arrays that is followed; journald begins a new file long before."""
MAX_ITEMS = 1024
"""Most fields of an entry: journald accepts no more."""


class JournalDamagedError(ValueError):
    """The file is not a journal that this program can read; the message says why."""


class JournalEntry(NamedTuple):
    """
    The head of an entry.

    *wall_us* is microseconds since the epoch, *monotonic_us* since the boot *boot* on CLOCK_MONOTONIC; both are when
    journald received it. *items* are the offsets of its fields.
    """

    seqnum: int
    wall_us: int
    monotonic_us: int
    boot: bytes
    items: tuple[int, ...]


class JournalData(NamedTuple):
    """A field with its value, which many entries share: where it is, and the entries that have it."""

    offset: int
    first_entry: int
    first_array: int
    total: int


class JournalFile:
    """An open file of the journal; *fd* stays the caller's."""

    def __init__(self, fd: int, name: str) -> None:
        """
        Read its header.

        Raises:
            JournalDamagedError: If it is not a journal, or has a feature that this program does not know.
        """
        self.name = name
        self.reader = SparingReader(fd)
        head = self.reader.read(0, HEADER.size)
        if len(head) < HEADER.size or not head.startswith(SIGNATURE):
            raise JournalDamagedError("it does not begin as a journal does")
        flags, self._id, self.last_boot, self._table, self._table_bytes, self.last_monotonic_us = HEADER.unpack(head)
        if unknown := flags & ~KNOWN_FLAGS:
            raise JournalDamagedError(f"it has features that this program does not know (flags {unknown:#x})")
        self._keyed = bool(flags & KEYED_HASH)
        self._item, self._payload_at = ("I", 72) if flags & COMPACT else ("QQ", 64)
        self._array_item = struct.Struct("<I" if flags & COMPACT else "<Q")

    def find(self, payload: bytes) -> JournalData | None:
        """Return the field ``NAME=value``, which is at most 512 bytes long; ``None`` if no entry has it."""
        buckets = self._table_bytes // 16
        if not buckets:
            return None
        wanted = siphash24(payload, self._id) if self._keyed else jenkins64(payload)
        (offset,) = struct.unpack("<Q", self._exactly(self._table + wanted % buckets * 16, 8))
        for _ in range(MAX_CHAIN):
            if not offset:
                return None
            flags, size = self._object(offset, DATA)
            hashed, following, first_entry, first_array, count = DATA_HEAD.unpack(self._exactly(offset, 64))
            if hashed == wanted and self._value(offset, flags, size, len(payload) + 1) == payload:
                return JournalData(offset, first_entry, first_array, count)
            offset = following
        raise JournalDamagedError("a chain of its hash table does not end")

    def entry(self, offset: int) -> JournalEntry:
        """Return the head of the entry at *offset*."""
        _, size = self._object(offset, ENTRY)
        seqnum, wall_us, monotonic_us, boot = ENTRY_HEAD.unpack(self._exactly(offset, 64))
        item = struct.Struct(f"<{self._item}")
        count = min((size - 64) // item.size, MAX_ITEMS)
        items = item.iter_unpack(self._exactly(offset + 64, count * item.size))
        return JournalEntry(seqnum, wall_us, monotonic_us, boot, tuple(values[0] for values in items))

    def field(self, offset: int, limit: int) -> bytes:
        """
        Return the first *limit* bytes of the field at *offset*: ``NAME=value``.

        Raises:
            JournalDamagedError: If it is not a field, or cannot be unpacked.
        """
        flags, size = self._object(offset, DATA)
        return self._value(offset, flags, size, limit)

    def entries(self, data: JournalData) -> EntryOffsets:
        """Return the entries that have a field."""
        return EntryOffsets(self, data)

    def array(self, offset: int) -> tuple[int, int]:
        """Return where the array of entries after that at *offset* is, and how many places this one has."""
        _, size = self._object(offset, ENTRY_ARRAY)
        (following,) = struct.unpack("<Q", self._exactly(offset + 16, 8))
        return following, (size - 24) // self._array_item.size

    def array_item(self, offset: int, index: int) -> int:
        """Return the offset in one place of the array at *offset*; 0 if that is not used yet."""
        width = self._array_item.size
        (found,) = self._array_item.unpack(self._exactly(offset + 24 + index * width, width))
        return int(found)

    def _value(self, offset: int, flags: int, size: int, limit: int) -> bytes:
        length = max(0, size - self._payload_at)
        if not flags & COMPRESSED:
            return self._exactly(offset + self._payload_at, min(length, limit))
        packed = self._exactly(offset + self._payload_at, min(length, MAX_PACKED_BYTES))
        try:
            return unpacked(flags, packed, limit)
        except UnpackError as exc:
            raise JournalDamagedError(str(exc)) from exc

    def _object(self, offset: int, kind: int) -> tuple[int, int]:
        """Return the flags and the size of the object at *offset*."""
        found, flags, size = OBJECT.unpack(self._exactly(offset, OBJECT.size))
        if found != kind or offset % 8 or size < OBJECT.size:
            raise JournalDamagedError(f"there is no object of type {kind} at {offset}")
        return flags, size

    def _exactly(self, offset: int, size: int) -> bytes:
        try:
            found = self.reader.read(offset, size)
        except OSError as exc:
            raise JournalDamagedError(f"{size} bytes at {offset} cannot be read: {exc}") from exc
        if len(found) != size:
            raise JournalDamagedError(f"it ends before {offset + size}")
        return found


class EntryOffsets:
    """The entries that have a field, oldest first: the first, then those in a chain of arrays, each twice as long."""

    def __init__(self, file: JournalFile, data: JournalData) -> None:
        self._file = file
        self._first = data.first_entry
        self._arrays: list[tuple[int, int]] = []  # offset, and index of the first place
        self.count = min(data.total, 1)
        array = data.first_array
        for _ in range(MAX_CHAIN):
            if self.count >= data.total or not array:
                return
            self._arrays.append((array, self.count))
            array, places = file.array(array)
            self.count = min(self.count + places, data.total)
        raise JournalDamagedError("a chain of its arrays does not end")

    def entry(self, index: int) -> tuple[int, JournalEntry]:
        """Return the entry at *index*, and its offset."""
        offset = self._first if index == 0 else self._in_arrays(index)
        if not offset:
            raise JournalDamagedError("an entry is missing")
        return offset, self._file.entry(offset)

    def first_after(self, boot: bytes, monotonic_us: int) -> int:
        """Return the index of the first entry of *boot* after *monotonic_us*; earlier boots come before."""
        low, high = 0, self.count
        while low < high:
            middle = (low + high) // 2
            _, entry = self.entry(middle)
            if entry.boot == boot and entry.monotonic_us > monotonic_us:
                high = middle
            else:
                low = middle + 1
        return low

    def _in_arrays(self, index: int) -> int:
        array, first = next(found for found in reversed(self._arrays) if found[1] <= index)
        return self._file.array_item(array, index - first)
