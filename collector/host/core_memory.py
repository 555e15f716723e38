"""The memory that a core holds, by address."""

from __future__ import annotations

import os
from typing import Protocol

from collector.host.core_segments import SegmentTable
from collector.host.memory import PAGE_BYTES
from collector.host.process_memory import ProcessMemory


class CoreMemory(Protocol):
    """What can be read of a crashed process's memory, wherever that is kept."""

    def read(self, address: int, size: int) -> bytes:
        """Return what is there of *size* bytes at *address*; it ends at the first byte that is missing."""
        ...


class FileMemory:
    """
    The memory in an uncompressed core file.

    Args:
        fd: The core; it stays the caller's.
        segments: Its segment table.
    """

    def __init__(self, fd: int, segments: SegmentTable) -> None:
        self._fd = fd
        self._segments = segments

    def read(self, address: int, size: int) -> bytes:
        parts: list[bytes] = []
        end = address + size
        while address < end:
            segment = self._segments.find(address)
            if segment is None:
                break
            skip = address - segment.start
            piece = min(end - address, segment.file_bytes - skip)
            found = os.pread(self._fd, piece, segment.offset + skip) if piece > 0 else b""
            parts.append(found)
            address += len(found)
            if not found or len(found) < piece:
                break
        return b"".join(parts)


class HeldMemory:
    """The memory of a process that is held; pages that are absent are missing."""

    def __init__(self, memory: ProcessMemory) -> None:
        self._memory = memory

    def read(self, address: int, size: int) -> bytes:
        low, high = address & -PAGE_BYTES, -(-(address + size) // PAGE_BYTES) * PAGE_BYTES
        start, end = next(self._memory.present(low, high), (low, low))
        if start > low:
            return b""
        return bytes(memoryview(self._memory.read(low, end))[address - low : address - low + size])
