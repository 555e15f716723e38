"""What is copied: an open regular file, the ranges of it that hold data, and its bytes."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from collector.copying.buffers import HUGE, Buffer
from collector.copying.plan import PAGE, Chunk, Extent, merge
from collector.copying.rate.throttle import Throttle
from collector.host import filesystem, syscalls
from collector.host.holes import data_ranges
from collector.model.errors import CopyError

READ_DIRECT = os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC | os.O_NOCTTY
REMEMBERED = 1024


class SourceError(OSError):
    """The source cannot be read; the destination is not to blame."""


@dataclass(slots=True)
class Source:
    """
    A range of an open regular file.

    Args:
        fd: Open for reading; the caller closes it.
        start: First byte; a multiple of the page size.
        limit: Maximum number of bytes to copy; ``None`` for all.

    Raises:
        CopyError: If it is not a regular file, or *start* is not a multiple of the page size.
    """

    fd: int
    start: int
    limit: int | None
    status: os.stat_result = field(init=False)
    end: int = field(init=False)
    kind: str = field(init=False)

    def __post_init__(self) -> None:
        self.status = os.fstat(self.fd)
        if not stat.S_ISREG(self.status.st_mode):
            raise CopyError("the source is not a regular file", errno=errno.EINVAL)
        if self.start % PAGE:
            raise CopyError(f"cannot start at byte {self.start}", hint=f"a multiple of {PAGE}", errno=errno.EINVAL)
        self.end = self.status.st_size
        if self.limit is not None:
            self.end = min(self.end, self.start + self.limit)
        self.end = max(self.end, self.start)
        self.kind = filesystem.kind(self.fd)

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def cut(self) -> bool:
        """Return whether the limit leaves anything out."""
        return self.end < self.status.st_size and self.limit is not None

    @property
    def cut_reason(self) -> str | None:
        return f"limited to {self.limit} bytes" if self.cut else None

    @property
    def on_huge_pages(self) -> bool:
        """
        Return whether the source's file system backs it with huge pages where it can.

        Source: mm/shmem.c, ``shmem_getattr``: tmpfs mounted with ``huge=always`` or ``within_size`` reports their size.
        """
        return self.kind == filesystem.TMPFS and self.status.st_blksize >= HUGE

    def extents(self) -> Iterator[Extent]:
        """Yield the ranges that hold data; raise `CopyError` if lseek(2) fails. Unwritten blocks count as holes."""
        try:
            for low, high in data_ranges(self.fd, self.start, self.end):
                yield Extent(low, high)
        except OSError as exc:
            raise CopyError(f"cannot read the source: {exc.strerror}", errno=exc.errno) from exc

    def solid(self, chunk: Chunk) -> bool:
        """
        Return whether every page of a chunk still exists, so that reading it through a mapping allocates none.

        If the file holds as many blocks as at the start, none was punched out. Otherwise cachestat counts (15 ms of CPU
        per GiB); SEEK_HOLE would walk on to the next hole (8 s for a dense GiB).
        """
        if os.fstat(self.fd).st_blocks == self.status.st_blocks:
            return True
        found = syscalls.cachestat(self.fd, offset=chunk.start, length=chunk.size)
        return found is not None and found.cached * PAGE >= chunk.size

    def shrunk(self) -> int | None:
        """Return the file's current size if it is now shorter than the range."""
        size = os.fstat(self.fd).st_size
        return size if size < self.end else None

    def changed(self) -> bool:
        """Return whether size or mtime changed. Stores through a mapping of tmpfs change neither."""
        now = os.fstat(self.fd)
        return (now.st_size, now.st_mtime_ns) != (self.status.st_size, self.status.st_mtime_ns)


@dataclass(slots=True)
class MergedExtents:
    """
    The extents of a source, merged across holes of a single page; iterated more than once.

    With a page of data after each page of hole, 256 MiB took 6.5 s piece by piece and 0.6 s merged, for at most twice
    the space on the disk. Looking for data costs CPU, so up to `REMEMBERED` extents are kept from the first iteration;
    a list of all of them could grow with the file. *align* is the destination's block size in bytes.
    """

    source: Source
    align: int
    _kept: list[tuple[Extent, bool]] = field(init=False, default_factory=list)
    _complete: bool = field(init=False, default=False)

    def __iter__(self) -> Iterator[tuple[Extent, bool]]:
        """Yield extents, each with whether it is data throughout."""
        if self._complete:
            yield from self._kept
            return
        self._kept.clear()
        count = 0
        for count, found in enumerate(merge(self.source.extents(), align=self.align, end=self.source.end, gap=PAGE), 1):
            if count <= REMEMBERED:
                self._kept.append(found)
            yield found
        self._complete = count <= REMEMBERED
        if not self._complete:
            self._kept.clear()


class SourceReader:
    """
    Reads a source into private memory without leaving pages in the cache.

    tmpfs is memory already and is read as it is. A file on a disk is opened a second time for direct reads; where those
    are not supported, its pages are dropped after reading. It is read at the rate that *throttle* allows, because that
    disk has other users too.
    """

    def __init__(self, source: Source, throttle: Throttle) -> None:
        in_memory = source.kind in filesystem.MEMORY
        self._source = source
        self._throttle = None if in_memory else throttle
        self._waiting = threading.Lock()
        self._fd = source.fd
        self._own: int | None = None
        self._drop = False
        if in_memory:
            return
        try:
            self._own = self._fd = os.open(f"/proc/self/fd/{source.fd}", READ_DIRECT)
        except OSError:
            self._drop = True

    def close(self) -> None:
        if self._own is not None:
            os.close(self._own)

    def read(self, buffer: Buffer, offset: int, size: int) -> int:
        """
        Fill *buffer* with *size* bytes from *offset*; return the number read, which is smaller only at the end.

        *offset* is a multiple of the page size, and *buffer* extends to the next such multiple after *size*.

        Raises:
            SourceError: As preadv(2) gives it.
            Stopped: If the gate says so.
        """
        if self._throttle is None:
            return self._read(buffer, offset, size)
        with self._waiting:
            self._throttle.wait(size)
        started = time.monotonic()
        got = self._read(buffer, offset, size)
        self._throttle.record(got, time.monotonic() - started)
        return got

    def _read(self, buffer: Buffer, offset: int, size: int) -> int:
        aligned = -(-size // PAGE) * PAGE
        got = 0
        while got < size:
            try:
                count = os.preadv(self._fd, [buffer.view[got:aligned]], offset + got)
            except OSError as exc:
                if exc.errno != errno.EINVAL or self._fd == self._source.fd:
                    raise SourceError(exc.errno, exc.strerror) from exc
                self._fd, self._drop = self._source.fd, True  # needs larger blocks than a page, or takes no direct I/O
                continue
            got += count
            if count == 0 or count % PAGE:
                break
        if self._drop:
            os.posix_fadvise(self._fd, offset, size, os.POSIX_FADV_DONTNEED)
        return min(got, size)
