"""Reading a source into private memory, without leaving its pages behind."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from types import TracebackType
from typing import Self

from collector.copying.buffers import Buffer
from collector.copying.rate.throttle import Steering
from collector.copying.source import PAGE, Source, SourceError
from collector.host import filesystem

READ_DIRECT = os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC | os.O_NOCTTY


class Reader:
    """
    The door to a source's bytes.

    What lies on tmpfs is memory already and is read as it is. What lies on a disk is opened a
    second time for direct reads, or, where that is not offered, dropped from the cache behind;
    and it is read at the pace that *steering* keeps: that disk has other users, too.
    """

    def __init__(self, source: Source, steering: Steering) -> None:
        self._source = source
        self._steering = None if source.kind in filesystem.MEMORY else steering
        self._turn = threading.Lock()
        self._fd = source.fd
        self._own: int | None = None
        self._drop = False
        if source.kind in filesystem.MEMORY:
            return
        try:
            self._own = self._fd = os.open(f"/proc/self/fd/{source.fd}", READ_DIRECT)
        except OSError:
            self._drop = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._own is not None:
            with contextlib.suppress(OSError):
                os.close(self._own)

    def read(self, buffer: Buffer, offset: int, size: int) -> int:
        """
        Fill *buffer* with *size* bytes from *offset*; return how many there were: fewer only at the end.

        *offset* is a multiple of the page size and *buffer* reaches to the next one behind *size*.

        Raises:
            SourceError: As preadv(2) gives it.
            Stopped: If the gate says so.
        """
        if self._steering is None:
            return self._read(buffer, offset, size)
        with self._turn:
            self._steering.turn(size)
        started = time.monotonic()
        got = self._read(buffer, offset, size)
        self._steering.done(got, time.monotonic() - started)
        return got

    def _read(self, buffer: Buffer, offset: int, size: int) -> int:
        aligned = -(-size // PAGE) * PAGE
        got = 0
        while got < size:
            try:
                count = os.preadv(self._fd, [buffer.view[got:aligned]], offset + got)
            except OSError as exc:
                if exc.errno != errno.EINVAL or self._fd == self._source.fd:
                    raise SourceError(exc.errno, exc.strerror) from exc
                self._fd, self._drop = self._source.fd, True  # larger blocks than a page, or none at all
                continue
            got += count
            if count == 0 or count % PAGE:
                break
        if self._drop:
            os.posix_fadvise(self._fd, offset, size, os.POSIX_FADV_DONTNEED)
        return min(got, size)
