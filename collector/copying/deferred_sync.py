"""Small files are synced together, with a few journal commits instead of one each, beside the writing of the next."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from collector.copying.rate.limiter import Limiter
from collector.host.syscalls import call
from collector.model.errors import CopyError

SMALL_BYTES = 64 << 10
"""Up to this size a file is written through the cache and dropped from it when many are synced together:
60 files of 300 bytes took 10 ms and 62 flushes that way, 33 ms and 124 flushes with O_DIRECT and a sync each;
4,000 segments of 64 KiB 1.1 s and 1.0 s of CPU, instead of 4.4 and 2.3."""

MAX_FILES = 64
MAX_BYTES = 1 << 20
# sync_file_range(2)
START = 2
WAIT = 1 | 4


@dataclass(frozen=True, slots=True)
class Waiting:
    """A file that waits, and what learns how long its bytes took."""

    fd: int
    size: int
    limiter: Limiter | None


class Batch:
    """Files that are synced together, by a thread if one can be started."""

    def __init__(self, files: list[Waiting]) -> None:
        self._files = files
        self._error: OSError | None = None
        self._started_s = self._written_s = 0.0
        self._thread = threading.Thread(target=self._sync, daemon=True)
        with contextlib.suppress(RuntimeError):  # no memory for a thread: the caller does it
            self._thread.start()

    def finish(self) -> None:
        """Wait until all files are synced and closed; raise the first error."""
        if self._thread.ident is None:
            self._sync()
        else:
            self._thread.join()
        if self._error:
            raise self._error
        # As one write: with nothing to learn from, 4,000 segments on a disk held to 100 MiB/s made another process's
        # fsync take 63 ms at the 99th percentile.
        size = sum(file.size for file in self._files if file.limiter)
        if size and (limiter := self._files[-1].limiter):
            limiter.record(self._written_s, size, self._written_s - self._started_s)

    def _sync(self) -> None:
        self._started_s = time.monotonic()
        # All blocks are allocated in one transaction; the first fdatasync commits it for all files.
        for flags in (START, START | WAIT):
            for file in self._files:
                self._try(call, "sync_file_range", file.fd, 0, 0, flags)
        self._written_s = time.monotonic()
        for file in self._files:
            self._try(os.fdatasync, file.fd)
            self._try(os.posix_fadvise, file.fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file.fd)

    def _try(self, action: Callable[..., object], *arguments: object) -> None:
        try:
            action(*arguments)
        except OSError as exc:
            self._error = self._error or exc


_waiting: list[Waiting] = []
_batches: list[Batch] = []
for _files in (_waiting, _batches):
    os.register_at_fork(after_in_child=_files.clear)  # a forked worker does not own its parent's files


def later(fd: int, size: int, limiter: Limiter | None = None) -> None:
    """
    Take over *fd*, a file of *size* bytes written through the cache, until the next `sync_all`.

    Once 64 files or 1 MiB are waiting, they are synced beside what comes next, and those before them are waited for:
    no more than twice that much may be dirty. *limiter* is told how long that took.

    Raises:
        CopyError: As `sync_all`.
    """
    _waiting.append(Waiting(fd, size, limiter))
    if len(_waiting) >= MAX_FILES or sum(file.size for file in _waiting) >= MAX_BYTES:
        _finish()
        _start()


def sync_all() -> None:
    """
    Sync and close all waiting files and drop their pages from the cache.

    Raises:
        CopyError: If one of them cannot be synced; all others are, first.
    """
    _start()
    _finish()


def _start() -> None:
    if _waiting:
        _batches.append(Batch(list(_waiting)))
        _waiting.clear()


def _finish() -> None:
    first: OSError | None = None
    while _batches:
        try:
            _batches.pop(0).finish()
        except OSError as exc:
            first = first or exc
    if first:
        # No errno: what failed is an earlier file, not the one that is being written.
        raise CopyError(f"cannot sync small files: {first.strerror}", hint="see the kernel log") from first
