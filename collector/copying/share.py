"""Keeping a whole file without copying its bytes: a file that shares its blocks, or a second name for it."""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Callable
from contextlib import closing

from collector.copying.rate.throttle import Throttle, limiter_for
from collector.copying.sink import Sink
from collector.host.filesystem import BTRFS, kind, write_back
from collector.host.syscalls import cachestat
from collector.model.artifact import Method
from collector.model.copying import CopyReport, Feedback
from collector.model.units import Rate

# include/uapi/linux/fs.h
FICLONE = 0x40049409
FICLONERANGE = 0x4020940D
CLONE_RANGE = "=qQQQ"  # source, its offset, length, offset in the destination
PIECE_BYTES = 1 << 20


def reflink(source_fd: int, directory_fd: int, name: str, *, rate: Rate, ask: Callable[[], Feedback]) -> CopyReport:
    """
    Make *name* a file that shares the blocks of the source, until either is written to, and sync it.

    Raises:
        OSError: If the file system has no such thing, or the source is on another one; nothing is left behind.
        CopyError: From the destination.
        Stopped: If the gate says so.

    Source: ioctl_ficlonerange(2); xfs and btrfs.
    """
    started = time.monotonic()
    with closing(Sink(directory_fd, name, direct=False)) as sink:
        if kind(source_fd) != BTRFS:  # which always can, and starts writing everything back when asked
            # From the end to the end: whether it works is to be known before anything is written back for it.
            nothing = struct.pack(CLONE_RANGE, source_fd, os.fstat(source_fd).st_size, 0, 0)
            fcntl.ioctl(sink.fd, FICLONERANGE, nothing)
        _write_back(source_fd, rate, ask)
        fcntl.ioctl(sink.fd, FICLONE, source_fd)
        sink.publish(os.fstat(sink.fd).st_size)
        return _report(sink.fd, Method.REFLINK, "shares the blocks of the source", time.monotonic() - started)


def link(source_fd: int, directory_fd: int, name: str) -> CopyReport:
    """Make *name* a hard link to a source that is never written again; raise `OSError` if that is impossible."""
    os.link(f"/proc/self/fd/{source_fd}", name, dst_dir_fd=directory_fd, follow_symlinks=True)
    return _report(source_fd, Method.LINK, "hard link to a source that is never written again", 0.0)


def _write_back(fd: int, rate: Rate, ask: Callable[[], Feedback]) -> None:
    """
    Write the dirty pages of the source to its disk, at the rate of a copy.

    The reflink itself does so at full speed: with 2 GiB of them, another process's fsync took 92 ms; so it takes 7.
    """
    throttle = Throttle(limiter=limiter_for(rate, os.fstat(fd).st_dev), ask=ask)
    for offset in range(0, os.fstat(fd).st_size, PIECE_BYTES):
        found = cachestat(fd, offset=offset, length=PIECE_BYTES)
        if found is not None and not found.dirty:
            continue
        throttle.wait(PIECE_BYTES)
        started = time.monotonic()
        write_back(fd, offset, PIECE_BYTES)
        throttle.record(PIECE_BYTES, time.monotonic() - started)


def _report(fd: int, method: Method, reason: str, seconds: float) -> CopyReport:
    status = os.fstat(fd)
    return CopyReport(
        size_bytes=status.st_size,
        data_bytes=min(status.st_size, status.st_blocks * 512),
        method=method,
        method_reason=reason,
        direct=True,
        seconds=seconds,
    )
