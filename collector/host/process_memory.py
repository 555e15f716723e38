"""
A process's memory, as far as it is there: no page is faulted in.

Reading an absent page through ``/proc/PID/mem`` would fault it in: a hole of tmpfs gets a page, a file is read from its
disk, and a page that userfaultfd serves makes the reader wait for somebody else's program.

Source: proc_pid_mem(5), proc_pid_pagemap(5).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Self

from collector.host.files import OpenFd
from collector.host.memory import PAGE_BYTES
from collector.host.procfs import Process

ENTRY_BYTES = 8
# The byte of an entry with bit 63 (present) and bit 62 (swapped).
TOP = 7 if sys.byteorder == "little" else 0
THERE = bytes(int(value >= 0x40) for value in range(256))
BATCH_PAGES = 8192
"""Entries read at once: 64 KiB."""


class ProcessMemory:
    """
    The memory of a process that does not run: it is held, or stopped.

    *unreadable_bytes* counts what is there and yet could not be read, such as a device's memory.

    Raises:
        OSError: If it cannot be opened.
    """

    def __init__(self, process: Process) -> None:
        self.unreadable_bytes = 0
        with ExitStack() as stack:
            self._mem, self._pagemap, self._maps = (
                stack.enter_context(OpenFd(process.open(name))) for name in ("mem", "pagemap", "maps")
            )
            self._close = stack.pop_all().close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def present(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges of pages between *start* and *end*, both at whole pages, that are there."""
        at = start
        while at < end:
            pages = min(BATCH_PAGES, (end - at) // PAGE_BYTES)
            flags = self._flags(at // PAGE_BYTES, pages)
            if not flags:  # beyond what a process can have
                return
            first = flags.find(1)
            while first >= 0:
                last = flags.find(0, first)
                last = len(flags) if last < 0 else last
                yield at + first * PAGE_BYTES, at + last * PAGE_BYTES
                first = flags.find(1, last)
            at += pages * PAGE_BYTES

    def read(self, start: int, end: int) -> bytearray:
        """Read from *start* to *end*, both at whole pages; what is not there is zeros."""
        data = bytearray(end - start)
        with memoryview(data) as view:
            for low, high in self.present(start, end):
                self._fill(view[low - start : high - start], low)
        return data

    def vdso(self) -> tuple[int, bytearray] | None:
        """
        Return where the kernel's own library is mapped, and its contents; ``None`` if it is not.

        It alone is read whether it is there or not: its pages cost nothing. Only `maps` tells what it is; a process can
        map anything else where its auxiliary vector says that it is.
        """
        with os.fdopen(os.dup(self._maps), "rb", buffering=65_536) as lines:
            line = next((line for line in lines if line.endswith(b"[vdso]\n")), None)
        if line is None:
            return None
        start, end = (int(part, 16) for part in line.split(b" ", 1)[0].split(b"-"))
        data = bytearray(end - start)
        with memoryview(data) as view:
            self._fill(view, start)
        return start, data

    def _fill(self, view: memoryview, at: int) -> None:
        """Read until *view* is full; pages that cannot be read are left out."""
        done = 0
        while done < len(view):
            try:
                got = os.preadv(self._mem, [view[done:]], at + done)
            except OSError:
                got = 0
            if not got:
                self.unreadable_bytes += PAGE_BYTES
                got = PAGE_BYTES - done % PAGE_BYTES
            done += got

    def _flags(self, page: int, pages: int) -> bytes:
        """Return for each page 1 if it is there, else 0."""
        try:
            raw = os.pread(self._pagemap, pages * ENTRY_BYTES, page * ENTRY_BYTES)
        except OSError:
            return b""
        return raw[TOP::ENTRY_BYTES].translate(THERE)
