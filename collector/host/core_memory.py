"""The memory that a core holds, by address."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Mapping
from typing import Protocol

from collector.host.core_segments import SegmentTable
from collector.host.memory import PAGE_BYTES
from collector.host.process_memory import ProcessMemory

MAX_OFFSET = (1 << 63) - 1
"""How far a file can reach; a damaged segment table claims more."""


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
            found = self._pread(piece, segment.offset + skip)
            parts.append(found)
            address += len(found)
            if not found or len(found) < piece:
                break
        return b"".join(parts)

    def _pread(self, size: int, offset: int) -> bytes:
        if size <= 0 or offset + size > MAX_OFFSET:
            return b""
        try:
            return os.pread(self._fd, size, offset)
        except OSError:  # a bad block
            return b""


class NoMemory:
    """The memory of a core that holds none, or whose memory cannot be reached."""

    def read(self, address: int, size: int) -> bytes:  # noqa: ARG002 - as `CoreMemory` has it
        return b""


NO_MEMORY = NoMemory()


class PickedMemory:
    """
    Pieces of a core that cannot be read anywhere else.

    Args:
        pieces: By address; they do not overlap.
    """

    def __init__(self, pieces: Mapping[int, bytes]) -> None:
        self._pieces = pieces
        self._starts = sorted(pieces)

    def read(self, address: int, size: int) -> bytes:
        found = b""
        while len(found) < size and (index := bisect_right(self._starts, address) - 1) >= 0:
            start = self._starts[index]
            part = self._pieces[start][address - start : address - start + size - len(found)]
            if not part:
                break
            found += part
            address += len(part)
        return found


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
