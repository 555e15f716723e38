"""The head of a core that somebody sends: read once, forwards, and kept."""

from __future__ import annotations

import os
import select
import time
from dataclasses import dataclass

from collector.host.core_segments import SegmentTable
from collector.host.corehead import HeadReader
from collector.host.elfcore import (
    CoreError,
    CoreHeader,
    CoreReader,
    Layout,
    entry_bytes,
    header_bytes,
    read_header,
)

PIECE_BYTES = 65_536
LONGEST_WAIT_S = 3600.0
HEAD_BYTES = 6 << 20
"""
The notes of a thread take 3.9 KiB on a machine with AVX-512: enough for 1,500. The kernel writes the one that crashed
first.
"""


class CoreStream:
    """
    Reads from a socket or a pipe and keeps what came, at most `HEAD_BYTES` and a piece.

    Args:
        fd: Open for reading; it stays the caller's.
        deadline_s: When to stop waiting; monotonic.
    """

    def __init__(self, fd: int, *, deadline_s: float) -> None:
        self.head = bytearray()
        self._fd = fd
        self.deadline_s = deadline_s
        self._position = 0
        self._ended = False
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def read(self, size: int) -> bytes:
        """Return *size* bytes, fewer only at the end; raise `CoreError` at the deadline, `OSError` from the stream."""
        start, self._position = self._position, self._position + size
        self.fill(self._position)
        piece = bytes(self.head[start : self._position])
        self._position = start + len(piece)
        return piece

    def skip(self, size: int) -> None:
        self.read(size)

    def is_cut_off(self, end_bytes: int) -> bool:
        """Return whether the stream ended before *end_bytes*."""
        return self._ended and len(self.head) < end_bytes

    def fill(self, size: int) -> None:
        """Wait until the first *size* bytes are there, or the stream has ended; at most `HEAD_BYTES` are read."""
        while len(self.head) < min(size, HEAD_BYTES):
            left_s = self.deadline_s - time.monotonic()
            if left_s <= 0 or not self._poll.poll(min(left_s, LONGEST_WAIT_S) * 1000):
                raise CoreError(f"the dump stopped after {len(self.head)} bytes, within its head")
            try:
                piece = os.read(self._fd, PIECE_BYTES)
            except BlockingIOError:
                continue
            if not piece:
                self._ended = True
                return
            self.head += piece


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpHead:
    """
    What was read of a core: *data* from its first byte on, which may be more than its head.
    """

    data: bytes
    header: CoreHeader

    @property
    def layout(self) -> Layout:
        return self.header.layout

    @property
    def notes(self) -> memoryview:
        """The notes, as far as they were read."""
        start = self.header.note_offset
        return memoryview(self.data)[start : start + self.header.note_bytes]

    @property
    def notes_cut(self) -> bool:
        """Whether not all of the notes were read."""
        return len(self.notes) < self.header.note_bytes

    def reader(self) -> HeadReader:
        return HeadReader(self.data)

    def segments(self) -> SegmentTable:
        start = header_bytes(self.layout.word)
        end = start + self.header.segments * entry_bytes(self.layout)
        return SegmentTable(self.layout, memoryview(self.data)[start:end])


def read_head(stream: CoreStream) -> DumpHead:
    """
    Read the ELF header, the segment table and the notes; the stream then keeps nothing.

    Raises:
        CoreError: If it is not a core, its head is longer than what is read, or it does not come in time.
        OSError: From the stream.
    """
    header, _ = read_header(stream)
    stream.fill(header.note_offset + header.note_bytes)
    data = bytes(stream.head)
    stream.head.clear()
    return DumpHead(data=data, header=header)


FILE_NOTES_BYTES = 3 << 20
"""What is kept of the notes of a core file: those of 750 threads, or of one with 45,000 mapped files."""


class KeptReader:
    """Reads forwards through another reader and keeps what was read, at most `HEAD_BYTES`."""

    def __init__(self, reader: CoreReader) -> None:
        self.data = bytearray()
        self._reader = reader

    def read(self, size: int) -> bytes:
        piece = self._reader.read(max(0, min(size, HEAD_BYTES - len(self.data))))
        self.data += piece
        return piece

    def skip(self, size: int) -> None:
        self.read(size)

    def is_cut_off(self, end_bytes: int) -> bool:
        return self._reader.is_cut_off(end_bytes)


def head_of(reader: CoreReader) -> DumpHead:
    """
    Read the head of a core in a file, at most `FILE_NOTES_BYTES` of its notes; *reader* goes on after it.

    Raises:
        CoreError: If it is not a core.
    """
    kept = KeptReader(reader)
    header, _ = read_header(kept)
    kept.skip(header.note_offset + min(header.note_bytes, FILE_NOTES_BYTES) - len(kept.data))
    return DumpHead(data=bytes(kept.data), header=header)
