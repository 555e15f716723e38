"""What is copied: an open regular file, its extents, its bytes, its facts."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from collector.copying.plan import Chunk, Extent
from collector.host import filesystem, syscalls
from collector.model.errors import CopyError

PAGE = mmap.PAGESIZE


class SourceError(OSError):
    """The source cannot be read; the destination is not to blame."""


@dataclass(slots=True)
class Source:
    """
    A range of an open regular file.

    Args:
        fd: Open for reading; stays the caller's.
        start: First byte; a multiple of the page size.
        limit: Most bytes to copy; ``None`` for all.

    Raises:
        CopyError: If it is no regular file, or *start* is no multiple of the page size.
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
        """Return the length of the range in bytes."""
        return self.end - self.start

    @property
    def cut(self) -> bool:
        """Tell whether the limit leaves something out."""
        return self.end < self.status.st_size and self.limit is not None

    def extents(self) -> Iterator[Extent]:
        """
        Yield what holds data. What is allocated but was never written counts as a hole.

        Raises:
            CopyError: If lseek(2) fails.
        """
        at = self.start
        while at < self.end:
            try:
                low = os.lseek(self.fd, at, os.SEEK_DATA)
                high = os.lseek(self.fd, low, os.SEEK_HOLE)
            except OSError as exc:
                if exc.errno == errno.ENXIO:  # no data behind, or the file shrank
                    return
                raise CopyError(f"cannot read the source: {exc.strerror}", errno=exc.errno) from exc
            if low >= self.end:
                return
            yield Extent(low, min(high, self.end))
            at = high

    def solid(self, chunk: Chunk) -> bool:
        """
        Tell whether every page of a chunk is still there, so that reading its mapping allocates none.

        While the file holds as many blocks as at the start, none was punched out. Else cachestat
        counts (15 ms of CPU per GiB); SEEK_HOLE would walk on to the next hole (8 s for a dense GiB).
        """
        if os.fstat(self.fd).st_blocks == self.status.st_blocks:
            return True
        found = syscalls.cachestat(self.fd, offset=chunk.start, length=chunk.size)
        return found is not None and found.cached * PAGE >= chunk.size

    def shrunk(self) -> int | None:
        """Return where the file ends now, if that is before the range does."""
        size = os.fstat(self.fd).st_size
        return size if size < self.end else None

    def changed(self) -> bool:
        """Tell whether size or mtime moved. Stores through a mapping of tmpfs move neither."""
        now = os.fstat(self.fd)
        return (now.st_size, now.st_mtime_ns) != (self.status.st_size, self.status.st_mtime_ns)
