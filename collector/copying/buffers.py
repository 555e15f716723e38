"""Aligned buffers, allocated and touched once per process, and lent to one copy after another."""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from collector.host.libc import LIBC

HUGE = 2 << 20
POOL_BYTES = 2 * HUGE
"""Four writers of 1 MiB each; a worker's private memory is bounded by it."""

ZEROS = memoryview(mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ))
"""A MiB of zeros that costs no memory: reading it maps the kernel's one zero page. A shared one would take 1 MiB."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """A piece of private memory: its address for the kernel, its view for Python."""

    address: int
    view: memoryview


@dataclass(slots=True)
class Region:
    """Anonymous memory that starts at a huge page, backed by huge pages where they can be had."""

    size: int
    start: int = field(init=False)
    _map: mmap.mmap = field(init=False)
    _view: memoryview = field(init=False)

    def __post_init__(self) -> None:
        self._map = mmap.mmap(-1, self.size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        skip = -base % HUGE
        self.start = base + skip
        self._view = memoryview(self._map)[skip : skip + self.size]
        # One PMD instead of 512 PTEs: the kernel pins 1 MiB for a write in 1 step, not 256.
        LIBC.madvise(self.start, self.size, mmap.MADV_HUGEPAGE)
        for at in range(0, self.size, mmap.PAGESIZE):
            self._view[at] = 0

    def split(self, count: int, size: int) -> list[Buffer]:
        """Cut off *count* buffers of *size* bytes."""
        return [Buffer(self.start + at, self._view[at : at + size]) for at in range(0, count * size, size)]


_pool: list[Region] = []
_warm = False
_lock = threading.Lock()


def warm() -> None:
    """Allocate and touch the pool, so that no copy has to; a worker does it before it sleeps."""
    global _warm  # noqa: PLW0603 - once per process, as its name says
    with _lock:
        if not _warm:
            _pool.append(Region(POOL_BYTES))
            _warm = True


@contextmanager
def lease(count: int, size: int) -> Iterator[list[Buffer]]:
    """
    Lend *count* buffers of *size* bytes, a multiple of the page size.

    From the pool if it is free and large enough, else from memory of their own, returned at the end.
    """
    warm()
    with _lock:
        region = _pool.pop() if _pool and count * size <= POOL_BYTES else None
    if region is None:
        yield Region(count * size).split(count, size)
        return
    try:
        yield region.split(count, size)
    finally:
        with _lock:
            _pool.append(region)
