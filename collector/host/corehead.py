"""The beginning of a core file: enough to tell one crash's core from another's, and a whole core from a part of it."""

from __future__ import annotations

import errno
import os

import xxhash

from collector.host import filesystem
from collector.host.elfcore import CoreError, CutOffError, read_header
from collector.model.marker import CoreRef

# Headers of 1,000 segments, then the notes of the thread that crashed: its PID, its registers, its signal.
HEAD_BYTES = 65_536
IDENT_BYTES = 16


def head_in_memory(fd: int, *, offset: int = 0) -> bytes:
    """Return the first 64 KiB of a file, or those from *offset* on; nothing if that would wait for a disk."""
    buffer = bytearray(max(0, min(HEAD_BYTES, os.fstat(fd).st_size - offset)))
    try:
        got = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
    except OSError as exc:
        if exc.errno != errno.EOPNOTSUPP or filesystem.kind(fd) not in filesystem.MEMORY:
            return b""
        got = os.preadv(fd, [buffer], offset)
    return bytes(buffer) if got == len(buffer) else b""


def fingerprint(head: bytes) -> str:
    """Return what `holds` compares; empty if *head* is."""
    return f"{len(head)}:{xxhash.xxh3_64_hexdigest(head)}" if head else ""


def holds(fd: int, core: CoreRef) -> bool:
    """
    Return whether a file still holds the core that the marker named, or by now more of it.

    A handler may write every core to the same file (``cat > core.PROGRAM``), or one core in several rounds.
    """
    now = os.fstat(fd)
    if not core.head:
        return (now.st_size, now.st_mtime_ns) == (core.size_bytes, core.mtime_ns)
    head = os.pread(fd, int(core.head.partition(":")[0]), 0)
    return now.st_size >= core.size_bytes and fingerprint(head) == core.head


def whole_bytes(head: bytes) -> int:
    """
    Return how long the core that begins with *head* is according to its headers; 0 if it is not an ELF core.

    Headers that are cut off promise more than *head*.
    """
    if len(head) < IDENT_BYTES:
        return len(head) + 1 if head.startswith(b"\x7fELF") else 0
    try:
        return read_header(HeadReader(head))[0].end_bytes
    except CutOffError:
        return len(head) + 1
    except CoreError:
        return 0


class HeadReader:
    """Reads a file's *head* forwards, and with *fd* what comes after it, as far as that is in memory."""

    def __init__(self, head: bytes, fd: int | None = None) -> None:
        self._window, self._start = head, 0
        self._fd = fd
        self._position = 0

    def read(self, size: int) -> bytes:
        at = self._position - self._start
        if self._fd is not None and at + size > len(self._window):
            self._window, self._start, at = head_in_memory(self._fd, offset=self._position), self._position, 0
        piece = self._window[at : at + size]
        self._position += len(piece)
        return piece

    def skip(self, size: int) -> None:
        self._position = min(self._position + size, 1 << 62)

    def is_cut_off(self, end_bytes: int) -> bool:
        return len(self._window) < end_bytes
