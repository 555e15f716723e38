"""Two ways to write a chunk of tmpfs without copying it in memory. One carrier per writer."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from collector.copying.plan import Chunk
from collector.copying.sink import Sink
from collector.copying.source import PAGE, Source, SourceError
from collector.host.syscalls import LIBC, MAP_FAILED

WINDOW_BYTES = 32 << 20
"""At most 37 MiB are unmapped with one flush of the other processors' TLBs."""


class Carrier(Protocol):
    """Carries chunks from a source to a sink."""

    def carry(self, chunk: Chunk, offset: int) -> bool:
        """
        Write *chunk* at *offset*; False if it has to be read into a buffer instead.

        Raises:
            OSError: As the destination gives it.
        """
        ...

    def close(self) -> None:
        """Give back what the carrier holds."""
        ...


class Pipe:
    """
    The pages themselves, handed through a pipe: splice(2), twice.

    Nothing is mapped, so a hole is never filled, a truncation is a short read, and there are no
    page tables. 0.10 s of CPU per GiB where a mapping costs 0.17, measured side by side.
    """

    def __init__(self, source: Source, sink: Sink, size: int) -> None:
        self._source, self._sink = source, sink
        self._refused = False
        self._open(size)

    def _open(self, size: int) -> None:
        self._out, self._in = os.pipe()
        self._room = fcntl.fcntl(self._in, fcntl.F_GETPIPE_SZ)
        while size > self._room:
            try:
                self._room = fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, size)
            except OSError:  # above pipe-max-size, or no memory for so long a ring: chunks go in parts
                size //= 2

    def carry(self, chunk: Chunk, offset: int) -> bool:
        """Write a chunk; False if the source ends within it, or the destination takes no pages."""
        done = 0
        while not self._refused and done < chunk.size:
            size = min(self._room, chunk.size - done)
            try:
                got = os.splice(self._source.fd, self._in, size, offset_src=chunk.start + done)
            except OSError as exc:
                raise SourceError(exc.errno, exc.strerror) from exc
            try:
                if got % PAGE:
                    return self._spill()
                self._sink.splice(self._out, got, offset + done)
            except OSError as exc:
                self._spill()
                if exc.errno != errno.EINVAL:
                    raise
                self._refused = True
                return False
            if got == 0:
                break
            done += got
        return done == chunk.size

    def _spill(self) -> bool:
        """Throw away what is in the pipe."""
        ends = self._in, self._out
        self._open(self._room)
        for fd in ends:
            os.close(fd)
        return False

    def close(self) -> None:
        """Close both ends."""
        os.close(self._in)
        os.close(self._out)


@dataclass(slots=True)
class Window:
    """A mapped part of the source. Python never touches it: only the kernel reads it, for a write."""

    start: int
    end: int
    address: int
    users: int = 0

    def unmap(self) -> None:
        """Give up the mapping."""
        LIBC.munmap(self.address, self.end - self.start)


class Windows:
    """
    The part of a source that is mapped just now, lent to all writers of a copy.

    A mapping costs 2 MiB of page tables per GiB, so it is short. One for all: with one per writer, four
    writers spent a seventh of their CPU on telling each other's processors what was unmapped. Two are mapped
    at most: a writer that would need a third waits for the slowest.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._changed = threading.Condition()
        self._mapped: list[Window] = []

    @contextlib.contextmanager
    def lend(self, chunk: Chunk) -> Iterator[int]:
        """Lend the address at which a chunk is mapped."""
        with self._changed:
            while (window := self._find(chunk)) is None:
                self._changed.wait()
            window.users += 1
        try:
            yield window.address + chunk.start - window.start
        finally:
            with self._changed:
                window.users -= 1
                if len(self._mapped) > 1 and not window.users:
                    if window is self._mapped[0]:
                        self._drop_unused()
                    self._changed.notify_all()

    def _find(self, chunk: Chunk) -> Window | None:
        """Return the window that holds a chunk, mapped if need be; ``None`` if two are in use."""
        for window in self._mapped:
            if window.start <= chunk.start and chunk.end <= window.end:
                return window
        self._drop_unused()
        if len(self._mapped) > 1:
            return None
        self._mapped.append(self._map(chunk))
        return self._mapped[-1]

    def _drop_unused(self) -> None:
        unused = [window for window in self._mapped if not window.users]
        self._mapped = [window for window in self._mapped if window.users]
        for window in unused:
            window.unmap()

    def _map(self, chunk: Chunk) -> Window:
        start = max(chunk.extent.start, chunk.start // WINDOW_BYTES * WINDOW_BYTES)
        end = max(chunk.end, min(chunk.extent.end, (chunk.start // WINDOW_BYTES + 1) * WINDOW_BYTES))
        address = LIBC.mmap(None, end - start, mmap.PROT_READ, mmap.MAP_SHARED, self._source.fd, start)
        if address == MAP_FAILED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return Window(start, end, address)

    def close(self) -> None:
        """Unmap what is left; no writer may be at work any more."""
        self._drop_unused()


@dataclass(slots=True)
class Mapping:
    """Pages of the source by their addresses."""

    source: Source
    sink: Sink
    windows: Windows

    def carry(self, chunk: Chunk, offset: int) -> bool:
        """Write a chunk; False if it is not, or does not stay, data all through."""
        if not (chunk.solid and self.source.solid(chunk)):
            return False
        try:
            with self.windows.lend(chunk) as address:
                self.sink.write(address, chunk.size, offset)
        except OSError as exc:
            if exc.errno != errno.EFAULT:  # cut short meanwhile
                raise
            return False
        # What lies behind the end of a file, in its last page, may be anybody's.
        return os.fstat(self.source.fd).st_size >= chunk.end

    def close(self) -> None:
        """Leave the windows to the other writers."""
