"""What a file says of direct I/O, and what the page cache holds of it."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from dataclasses import dataclass

from collector.host import filesystem, statx
from collector.host.libc import LIBC, MAP_FAILED, call, syscall

CACHESTAT = 451  # the same number on every architecture

SYNC_AND_WAIT = 1 | 2 | 4  # SYNC_FILE_RANGE_WAIT_BEFORE | _WRITE | _WAIT_AFTER


@dataclass(frozen=True, slots=True)
class Alignment:
    """Bytes that addresses and offsets of direct I/O must be multiples of; 0 and 0: none is offered."""

    memory: int
    offset: int


@dataclass(frozen=True, slots=True)
class CacheStat:
    """Pages of a range in the page cache. Source: cachestat(2), Linux 6.5."""

    cached: int
    dirty: int
    writeback: int


def alignment(fd: int) -> Alignment | None:
    """Return what *fd* asks of direct I/O; ``None`` where it does not say. Source: statx(2), Linux 6.1."""
    found = statx.direct_alignment(fd)
    return None if found is None else Alignment(*found)


def cachestat(fd: int, *, offset: int = 0, length: int = 0) -> CacheStat | None:
    """Count the cached pages of a range (*length* 0: to the end); ``None`` where the kernel cannot."""
    span = (ctypes.c_uint64 * 2)(offset, length)
    counts = (ctypes.c_uint64 * 5)()
    try:
        syscall(CACHESTAT, fd, ctypes.byref(span), ctypes.byref(counts), 0)
    except OSError as exc:
        if exc.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            return None
        raise
    return CacheStat(cached=counts[0], dirty=counts[1], writeback=counts[2])


def cached_pages(fd: int, offset: int, length: int) -> int | None:
    """
    Count the pages of a range of one's own file that are in the page cache; ``None`` where nobody can tell.

    cachestat(2) sees nothing through an overlay, and is new; mincore(2) looks at the file itself, and pulls nothing in.
    """
    if filesystem.kind(fd) != filesystem.OVERLAY and (found := cachestat(fd, offset=offset, length=length)):
        return found.cached
    try:
        readable = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        address = LIBC.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, readable, offset)
    finally:
        os.close(readable)
    if address == MAP_FAILED:
        return None
    there = (ctypes.c_ubyte * -(-length // mmap.PAGESIZE))()
    try:
        call("mincore", address, length, there)
    finally:
        LIBC.munmap(address, length)
    return sum(page & 1 for page in there)


def flush_and_drop(fd: int, offset: int, length: int) -> None:
    """Write back what a buffered write left in the page cache, wait for it, and drop it."""
    if filesystem.kind(fd) == filesystem.OVERLAY:
        os.fdatasync(fd)  # sync_file_range would look for dirty pages in the overlay, which has none
    else:
        call("sync_file_range", fd, offset, length, SYNC_AND_WAIT)
    os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)
