from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator

import pytest

from collector.host.files import Host
from collector.host.memory import PAGE_BYTES
from collector.host.process_memory import ProcessMemory
from collector.host.procfs import Process
from collector.host.syscalls import syscall

MEMFD_SECRET = 447


@pytest.fixture
def own_memory() -> Iterator[ProcessMemory]:
    with Process(Host(), os.getpid()) as process, ProcessMemory(process) as memory:
        yield memory


def address_of(mapping: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(mapping))


def test_memory_that_is_not_there_is_zeros_and_stays_away(own_memory: ProcessMemory) -> None:
    """Reading a hole of a shared mapping through /proc/PID/mem would allocate its pages."""
    fd = os.memfd_create("holes")
    try:
        os.ftruncate(fd, 64 * PAGE_BYTES)
        mapping = mmap.mmap(fd, 64 * PAGE_BYTES)
        mapping[5 * PAGE_BYTES] = 7
        start = address_of(mapping)
        blocks = os.fstat(fd).st_blocks
        data = own_memory.read(start, start + 64 * PAGE_BYTES)
        assert os.fstat(fd).st_blocks == blocks
    finally:
        os.close(fd)
    assert data[5 * PAGE_BYTES] == 7
    assert data.count(0) == len(data) - 1
    assert (start + 5 * PAGE_BYTES, start + 6 * PAGE_BYTES) in own_memory.present(start, start + 64 * PAGE_BYTES)


def test_memory_is_found_page_by_page_across_batches(own_memory: ProcessMemory) -> None:
    """64 MiB take two reads of the page map; a run that reaches across them is two."""
    mapping = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.madvise(15)  # MADV_NOHUGEPAGE
    touched = (0, 1, 100, 8191, 8192, 16_383)
    for page in touched:
        mapping[page * PAGE_BYTES] = 1
    start = address_of(mapping)
    found = [
        (at - start) // PAGE_BYTES
        for low, high in own_memory.present(start, start + (64 << 20))
        for at in range(low, high, PAGE_BYTES)
    ]
    assert found == list(touched)


def test_memory_that_cannot_be_read_is_counted(own_memory: ProcessMemory) -> None:
    """memfd_secret(2): its pages are there, and nobody else may read them."""
    try:
        fd = syscall(MEMFD_SECRET, 0)
    except OSError as exc:
        pytest.skip(f"needs memfd_secret: {exc.strerror}")
    try:
        os.ftruncate(fd, 2 * PAGE_BYTES)
        mapping = mmap.mmap(fd, 2 * PAGE_BYTES)
    finally:
        os.close(fd)
    mapping[:] = b"x" * len(mapping)
    start = address_of(mapping)
    assert own_memory.read(start, start + 2 * PAGE_BYTES) == bytes(2 * PAGE_BYTES)
    assert own_memory.unreadable_bytes == 2 * PAGE_BYTES


def test_memory_of_the_kernels_library_is_whole(own_memory: ProcessMemory) -> None:
    start, data = own_memory.vdso() or (0, bytearray())
    assert data.startswith(b"\x7fELF")
    assert data == ctypes.string_at(start, len(data))


def test_memory_beyond_what_a_process_has_is_nowhere(own_memory: ProcessMemory) -> None:
    for start in (0, 1 << 47, (1 << 64) - 2 * PAGE_BYTES):
        assert list(own_memory.present(start, start + PAGE_BYTES)) == []
