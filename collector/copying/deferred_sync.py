"""Small files are synced together, with a few journal commits instead of one each."""

from __future__ import annotations

import os

from collector.host.syscalls import call
from collector.model.errors import CopyError

MAX_FILES = 64
MAX_BYTES = 1 << 20
START = 2  # SYNC_FILE_RANGE_WRITE

_waiting: list[tuple[int, int]] = []
os.register_at_fork(after_in_child=_waiting.clear)  # a forked worker does not own its parent's files


def later(fd: int, size: int) -> None:
    """
    Take over *fd*, a file of *size* bytes written through the cache, until the next `sync_all`.

    Calls `sync_all` itself once 64 files or 1 MiB are waiting: no more than that may be dirty.

    Raises:
        CopyError: As `sync_all`.
    """
    _waiting.append((fd, size))
    if len(_waiting) >= MAX_FILES or sum(size for _, size in _waiting) >= MAX_BYTES:
        sync_all()


def sync_all() -> None:
    """
    Sync and close all waiting files and drop their pages from the cache.

    Raises:
        CopyError: If one of them cannot be synced; all others are, first.
    """
    files = [fd for fd, _ in _waiting]
    _waiting.clear()
    first: OSError | None = None
    for fd in files:
        # All blocks are allocated in one transaction; the first fdatasync commits it for all files.
        try:
            call("sync_file_range", fd, 0, 0, START)
        except OSError as exc:
            first = first or exc
    for fd in files:
        try:
            os.fdatasync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as exc:
            first = first or exc
        finally:
            os.close(fd)
    if first:
        # No errno: what failed is an earlier file, not the one that is being written.
        raise CopyError(f"cannot sync small files: {first.strerror}", hint="see the kernel log") from first
