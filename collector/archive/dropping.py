"""Reading and writing large files that stay out of the page cache: what went through is dropped from it."""

from __future__ import annotations

import contextlib
import os
import select
import stat
from collections.abc import Callable, Iterable, Iterator

from collector.archive import directory
from collector.host.filesystem import flush_and_drop
from collector.model.errors import ArchiveError

DROP_BYTES = 8 << 20
"""Most bytes that are in the page cache, or dirty, at any time."""

WAIT_MS = 200
"""How long a full pipe is waited for before *check* is asked again."""


class DroppingReader:
    """
    Ranges of a file for `tarfile`, which only calls `read`; the file's pages are dropped from the cache as it is read.

    Dropped is always all from the file's beginning: the kernel reads ahead into the holes between ranges, and keeps a
    large folio of which only a part is named. Of 5 GiB with 1 MiB of data in every 5, 2.3 GiB stayed otherwise.

    Args:
        fd: The file.
        name: For errors.
        ranges: What to read of it, in order: first byte, and last byte plus one.
        head: What comes first.
        check: Called before each read.

    Raises:
        ArchiveError: If the file cannot be read, or has become shorter.
    """

    def __init__(
        self, fd: int, name: str, ranges: Iterable[tuple[int, int]], head: bytes, check: Callable[[], None]
    ) -> None:
        self._fd = fd
        self._name = name
        self._ranges = iter(ranges)
        self._head = head
        self._check = check
        self._at = self._end = self._dropped = 0

    def read(self, size: int) -> bytes:
        """Return the next *size* bytes."""
        self._check()
        data, self._head = self._head[:size], self._head[size:]
        while len(data) < size:
            if self._at == self._end:
                self._drop()
                self._at, self._end = next(self._ranges)
            data += self._read(min(size - len(data), self._end - self._at))
        if self._at - self._dropped >= DROP_BYTES:
            self._drop()
        return data

    def _read(self, size: int) -> bytes:
        try:
            data = os.pread(self._fd, size, self._at)
        except OSError as exc:
            raise ArchiveError(f"cannot read {self._name}: {exc.strerror}") from exc
        if not data:
            raise ArchiveError(f"cannot read {self._name}: it has become shorter")
        self._at += len(data)
        return data

    def _drop(self) -> None:
        os.posix_fadvise(self._fd, 0, self._at, os.POSIX_FADV_DONTNEED)
        self._dropped = self._at

    def finish(self) -> None:
        """Drop what is left of the file in the cache, also what was read ahead of its last range."""
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)


class DroppingWriter:
    """
    A file that is synced and dropped from the cache as it grows, or a pipe.

    Args:
        fd: Open for writing; writing goes on where it stands.
        name: For errors.
        check: Called while a pipe's reader is slow; a write to a full pipe would not be interrupted by a signal.

    Raises:
        BrokenPipeError: From `write`, if the reader of the pipe is gone.
        ArchiveError: From all methods, if the file cannot be written.
    """

    def __init__(self, fd: int, name: str, check: Callable[[], None]) -> None:
        self._fd = fd
        self._name = name
        self._check = check
        self._is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        self._dropped = os.lseek(fd, 0, os.SEEK_CUR) if self._is_file else 0
        self._at = self._dropped
        self.size_bytes = 0

    def write(self, data: bytes) -> int:
        with writing(self._name):
            if self._is_file:
                directory.write_all(self._fd, data)
            else:
                self._send(data)
        self._at += len(data)
        self.size_bytes += len(data)
        if self._at - self._dropped >= DROP_BYTES:
            self.flush()
        return len(data)

    def _send(self, data: bytes) -> None:
        """Write as much at a time as is certain not to block; 0.6 s per GiB. Source: pipe(7), PIPE_BUF; poll(2)."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        view = memoryview(data)
        while view:
            self._check()
            if poll.poll(WAIT_MS):
                view = view[os.write(self._fd, view[: select.PIPE_BUF]) :]

    def flush(self) -> None:
        """Sync what is not on the disk yet."""
        if self._is_file:
            with writing(self._name):
                flush_and_drop(self._fd, self._dropped, self._at - self._dropped)
            self._dropped = self._at


@contextlib.contextmanager
def writing(name: str) -> Iterator[None]:
    """Make an error of a write to *name* one that says so; a reader that is gone stays what it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise ArchiveError(f"cannot write {name}: {exc.strerror}", hint="name a file on a disk with more room") from exc
