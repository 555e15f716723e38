"""Two ways to write a chunk of tmpfs without copying it in memory. Each writer has its own `ZeroCopy`."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from collector.copying.plan import PAGE, Chunk
from collector.copying.sink import Sink
from collector.copying.source import Source, SourceError
from collector.host.syscalls import LIBC, call

WINDOW_BYTES = 32 << 20
"""The kernel unmaps at most 37 MiB with one flush of the other processors' TLBs."""


class Splice:
    """
    Hands the pages themselves over through a pipe: splice(2), twice.

    Nothing is mapped, so a hole is never filled, a truncation is a short read, and there are no page tables. On pages
    of 4 KiB it took 0.10 s of CPU per GiB where a mapping took 0.17, measured side by side.
    """

    def __init__(self, source: Source, sink: Sink, size: int) -> None:
        self._source, self._sink = source, sink
        self._refused = False
        self._open(size)

    def _open(self, size: int) -> None:
        self._out, self._in = os.pipe()
        self._capacity = fcntl.fcntl(self._in, fcntl.F_GETPIPE_SZ)
        while size > self._capacity:
            try:
                self._capacity = fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, size)
            except OSError:  # above pipe-max-size, or no memory for a ring of this length: chunks go in parts
                size //= 2

    def write(self, chunk: Chunk, offset: int) -> bool:
        """
        Write *chunk* at *offset*; return False if the source ends within it, or the destination takes no pages.

        Raises:
            OSError: As the destination gives it.
            SourceError: If the source cannot be read.
        """
        done = 0
        while not self._refused and done < chunk.size:
            size = min(self._capacity, chunk.size - done)
            try:
                got = os.splice(self._source.fd, self._in, size, offset_src=chunk.start + done)
            except OSError as exc:
                raise SourceError(exc.errno, exc.strerror) from exc
            try:
                if got % PAGE:
                    return self._discard()
                self._sink.splice(self._out, got, offset + done)
            except OSError as exc:
                self._discard()
                if exc.errno != errno.EINVAL:
                    raise
                self._refused = True
                return False
            if got == 0:
                break
            done += got
        return done == chunk.size

    def _discard(self) -> bool:
        """Discard what is in the pipe by opening another one."""
        ends = self._in, self._out
        self._open(self._capacity)
        for fd in ends:
            os.close(fd)
        return False

    def close(self) -> None:
        os.close(self._in)
        os.close(self._out)


@dataclass(slots=True)
class MappedWindow:
    """A mapped part of the source. Python never touches it: only the kernel reads it, for a write."""

    start: int
    end: int
    address: int
    users: int = 0


class MappedWindows:
    """
    The mapped part of a source, shared by all writers of a copy.

    A mapping costs 2 MiB of page tables per GiB, so only a window of the source is mapped. It is shared because with
    one window each, four writers spent a seventh of their CPU on flushing one another's TLBs. At most two are mapped: a
    writer that needs a third waits for the slowest.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._changed = threading.Condition()
        self._mapped: list[MappedWindow] = []

    @contextlib.contextmanager
    def lend(self, chunk: Chunk) -> Iterator[int]:
        """Lend the address at which *chunk* is mapped."""
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
                        self.unmap_unused()
                    self._changed.notify_all()

    def _find(self, chunk: Chunk) -> MappedWindow | None:
        """Return the window that holds *chunk*, mapping it if necessary; ``None`` while two others are in use."""
        for window in self._mapped:
            if window.start <= chunk.start and chunk.end <= window.end:
                return window
        self.unmap_unused()
        if len(self._mapped) > 1:
            return None
        self._mapped.append(self._map(chunk))
        return self._mapped[-1]

    def unmap_unused(self) -> None:
        unused = [window for window in self._mapped if not window.users]
        self._mapped = [window for window in self._mapped if window.users]
        for window in unused:
            LIBC.munmap(window.address, window.end - window.start)

    def _map(self, chunk: Chunk) -> MappedWindow:
        start = max(chunk.extent.start, chunk.start // WINDOW_BYTES * WINDOW_BYTES)
        end = max(chunk.end, min(chunk.extent.end, (chunk.start // WINDOW_BYTES + 1) * WINDOW_BYTES))
        address = call("mmap", None, end - start, mmap.PROT_READ, mmap.MAP_SHARED, self._source.fd, start)
        return MappedWindow(start, end, address)


@dataclass(slots=True)
class MappedPages:
    """Writes the pages of the source from a mapping."""

    source: Source
    sink: Sink
    windows: MappedWindows

    def write(self, chunk: Chunk, offset: int) -> bool:
        """Write *chunk* at *offset*; return False if it is not, or does not stay, data throughout."""
        if not (chunk.solid and self.source.solid(chunk)):
            return False
        try:
            with self.windows.lend(chunk) as address:
                self.sink.write(address, chunk.size, offset)
        except OSError as exc:
            if exc.errno != errno.EFAULT:  # the source was truncated meanwhile
                raise
            return False
        # Beyond the end of a file, its last page may hold another process's data.
        return os.fstat(self.source.fd).st_size >= chunk.end

    def close(self) -> None:
        """The windows belong to all writers."""


ZeroCopy = Splice | MappedPages
