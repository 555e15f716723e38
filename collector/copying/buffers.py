"""
Aligned buffers, allocated and touched once per process and lent to one copy after another.

A worker shares its buffers with its supervisor (a memfd): evidence is read into them before there is a directory to
write it to, and survives if a read costs the worker its life (`spool`).
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from collector.host.syscalls import LIBC, call

HUGE = 2 << 20
POOL_BYTES = 2 * HUGE
"""One MiB for each of four writers; bounds a worker's private memory."""

SPOOL_BYTES = 3 << 20
"""Evidence may be read into this much; the last MiB is the buffer that it is then written through."""

MAP_FIXED = 0x10  # mmap(2)
MADV_COLLAPSE = 25  # madvise(2), Linux 6.1; works even if shmem_enabled says never

ZEROS = memoryview(mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ))
"""A MiB of zeros that costs no memory: reading it maps the kernel's single zero page. A shared mapping would take 1
MiB."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """A piece of memory: its address for the kernel, its view for Python."""

    address: int
    view: memoryview


@dataclass(slots=True)
class Region:
    """Memory aligned to a huge page and backed by huge pages if available; that of *fd*, or private."""

    size: int
    fd: int = -1
    start: int = field(init=False)
    _map: mmap.mmap = field(init=False)
    _view: memoryview = field(init=False)

    def __post_init__(self) -> None:
        self._map = mmap.mmap(-1, self.size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        skip = -base % HUGE
        self.start = base + skip
        self._view = memoryview(self._map)[skip : skip + self.size]
        if self.fd >= 0:
            # Over the private memory, to be unmapped with it.
            protection = mmap.PROT_READ | mmap.PROT_WRITE
            call("mmap", self.start, self.size, protection, mmap.MAP_SHARED | MAP_FIXED, self.fd, 0)
        # One PMD instead of 512 PTEs: the kernel pins 1 MiB for a write in one step, not 256.
        LIBC.madvise(self.start, self.size, mmap.MADV_HUGEPAGE)
        for at in range(0, self.size, mmap.PAGESIZE):
            self._view[at] = 0
        if self.fd >= 0:
            LIBC.madvise(self.start, self.size, MADV_COLLAPSE)

    def split(self, count: int, size: int, *, skip: int = 0) -> list[Buffer]:
        """Return *count* buffers of *size* bytes, after the first *skip* bytes."""
        starts = range(skip, skip + count * size, size)
        return [Buffer(self.start + at, self._view[at : at + size]) for at in starts]

    def head(self, size: int) -> memoryview:
        return self._view[:size]


_pool: list[Region] = []
_warm = False
_spooled = 0
_lock = threading.Lock()


def warm(fd: int = -1) -> None:
    """
    Allocate and touch the pool, so that no copy has to; a worker does it before it goes to sleep.

    Args:
        fd: Memory of `POOL_BYTES` shared with another process, used instead of any pool that this process inherited;
            private memory if not given.
    """
    global _warm  # noqa: PLW0603 - one pool per process
    with _lock:
        if not _warm or fd >= 0:
            _pool[:] = [Region(POOL_BYTES, fd)]
            _warm = True


def spool_memory() -> memoryview:
    """
    Take the first `SPOOL_BYTES` of the pool for evidence, until `spool_done`; the rest still serves one writer.

    No buffer may be lent at that time: a worker does one job after the other.
    """
    global _spooled  # noqa: PLW0603 - one pool per process
    warm()
    with _lock:
        _spooled = SPOOL_BYTES
        return _pool[-1].head(SPOOL_BYTES)


def spool_done() -> None:
    """Give the whole pool back to copies."""
    global _spooled  # noqa: PLW0603 - one pool per process
    with _lock:
        _spooled = 0


@contextmanager
def lease(count: int, size: int) -> Iterator[list[Buffer]]:
    """
    Lend *count* buffers of *size* bytes, a multiple of the page size.

    They come from the pool if it is free and large enough, otherwise from memory allocated for this purpose.
    """
    warm()
    with _lock:
        skip = _spooled
        region = _pool.pop() if _pool and skip + count * size <= POOL_BYTES else None
    if region is None:
        yield Region(count * size).split(count, size)
        return
    try:
        yield region.split(count, size, skip=skip)
    finally:
        with _lock:
            _pool.append(region)
