"""Reading a little of a large file that others write through the page cache, without leaving more of it there."""

from __future__ import annotations

import mmap
import os

from collector.host.syscalls import cachestat

PAGE = mmap.PAGESIZE
LARGEST_OFFSET = (1 << 63) - 1
MAX_SEEN = (2 << 20) // PAGE
"""Pages that are read before those that this brought into the page cache are dropped: 2 MiB."""


class SparingReader:
    """
    Reads pieces of a file; *fd* stays the caller's.

    What is in the page cache already is read from there and stays there: it is the writer's. Any other page comes
    alone, without readahead, and is dropped again. Where the kernel cannot tell (before Linux 6.5, on an overlay), any
    that is clean and nobody has mapped is dropped. Mapped memory could do neither: a fault brings what the disk's
    readahead is set to, 128 KiB to many MiB, and what is mapped cannot be dropped.

    Source: posix_fadvise(2); cachestat(2). Not ``RWF_NOWAIT``, which begins to read what is not there.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.brought_pages = 0
        """How many pages were brought and dropped in all, those brought again included."""
        self._seen: set[int] = set()
        self._mine: set[int] = set()
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)

    def read(self, offset: int, size: int) -> bytes:
        """Return *size* bytes from *offset* on, fewer at the end of the file."""
        if offset + size > LARGEST_OFFSET:  # in a damaged file; beyond what any system call takes
            return b""
        new = [page for page in range(offset // PAGE, -(-(offset + size) // PAGE)) if page not in self._seen]
        if len(self._seen) + len(new) > MAX_SEEN:
            self.drop()
        self._seen.update(new)
        self._mine.update(page for page in new if not self._is_cached(page))
        return os.pread(self.fd, size, offset)

    def drop(self) -> None:
        """Drop the pages that were brought from the page cache."""
        self.brought_pages += len(self._mine)
        start = end = 0
        for page in sorted(self._mine):
            if page != end:
                self._drop(start, end)
                start = page
            end = page + 1
        self._drop(start, end)
        self._mine.clear()
        self._seen.clear()

    def _drop(self, start: int, end: int) -> None:
        if end > start:
            os.posix_fadvise(self.fd, start * PAGE, (end - start) * PAGE, os.POSIX_FADV_DONTNEED)

    def _is_cached(self, page: int) -> bool:
        found = cachestat(self.fd, offset=page * PAGE, length=PAGE)
        return found is not None and found.cached > 0
