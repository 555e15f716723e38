"""
Aligned buffers, allocated and touched once per process, and lent to one copy after another.

A worker's are memory that its supervisor holds, too (a memfd): evidence is read into them before there is a directory
to write it to, and outlives the worker that a read may cost (`spool`).
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from collector.host.syscalls import LIBC, MAP_FAILED

HUGE = 2 << 20
POOL_BYTES = 2 * HUGE
"""Four writers of 1 MiB each; a worker's private memory is bounded by it."""

SPOOL_BYTES = 3 << 20
"""What evidence may be read into; the last MiB is the buffer that it is then written through."""

MAP_FIXED = 0x10  # mmap(2)
MADV_COLLAPSE = 25  # madvise(2), Linux 6.1; also where shmem_enabled says never

ZEROS = memoryview(mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ))
"""A MiB of zeros that costs no memory: reading it maps the kernel's one zero page. A shared one would take 1 MiB."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """A piece of private memory: its address for the kernel, its view for Python."""

    address: int
    view: memoryview


@dataclass(slots=True)
class Region:
    """Memory that starts at a huge page, backed by huge pages where they can be had; that of *fd*, or private."""

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
            _place_shared(self.fd, self.start, self.size)
        # One PMD instead of 512 PTEs: the kernel pins 1 MiB for a write in 1 step, not 256.
        LIBC.madvise(self.start, self.size, mmap.MADV_HUGEPAGE)
        for at in range(0, self.size, mmap.PAGESIZE):
            self._view[at] = 0
        if self.fd >= 0:
            LIBC.madvise(self.start, self.size, MADV_COLLAPSE)

    def split(self, count: int, size: int, *, skip: int = 0) -> list[Buffer]:
        """Cut off *count* buffers of *size* bytes, behind the first *skip*."""
        starts = range(skip, skip + count * size, size)
        return [Buffer(self.start + at, self._view[at : at + size]) for at in starts]

    def head(self, size: int) -> memoryview:
        """Return the first *size* bytes."""
        return self._view[:size]


_pool: list[Region] = []
_warm = False
_spooled = 0
_lock = threading.Lock()


def _place_shared(fd: int, start: int, size: int) -> None:
    """
    Map the first *size* bytes of *fd* over the memory at *start*, which stays its mapping's to unmap.

    Raises:
        OSError: As mmap(2) gives it.
    """
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    if LIBC.mmap(start, size, protection, mmap.MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED:
        raise OSError(ctypes.get_errno(), "the pool's memory cannot be mapped")


def warm(fd: int = -1) -> None:
    """
    Allocate and touch the pool, so that no copy has to; a worker does it before it sleeps.

    Args:
        fd: Memory that somebody else holds, too, of `POOL_BYTES`, instead of what this process may have inherited;
            private memory if it is not given.
    """
    global _warm  # noqa: PLW0603 - once per process, as its name says
    with _lock:
        if not _warm or fd >= 0:
            _pool[:] = [Region(POOL_BYTES, fd)]
            _warm = True


def spool_memory() -> memoryview:
    """
    Take the first `SPOOL_BYTES` of the pool for evidence, until `spool_done`; the rest still serves one writer.

    Nothing may be lent out at this time: a worker does one job after the other.
    """
    global _spooled  # noqa: PLW0603 - once per process, as the pool
    warm()
    with _lock:
        _spooled = SPOOL_BYTES
        return _pool[-1].head(SPOOL_BYTES)


def spool_done() -> None:
    """Let copies have the whole pool again."""
    global _spooled  # noqa: PLW0603 - once per process, as the pool
    with _lock:
        _spooled = 0


@contextmanager
def lease(count: int, size: int) -> Iterator[list[Buffer]]:
    """
    Lend *count* buffers of *size* bytes, a multiple of the page size.

    From the pool if it is free and large enough, else from memory of their own, returned at the end.
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
