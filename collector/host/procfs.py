"""Processes as ``/proc`` shows them, each held so that it cannot be mistaken for its successor."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import msgspec

from collector.host.files import READ_FLAGS, Host, pieces
from collector.model.errors import StepError

CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Enough for any stat: 52 numbers of at most 20 digits and a name of 64 bytes (a kernel worker's).
STAT_LIMIT = 2048
# Core names give whole seconds, and the kernel whole ticks.
CLOCK_SLACK_S = 2.0


class ReplacedError(StepError):
    """Another process has the PID now: what was read under it is not evidence."""


class Stat(msgspec.Struct, frozen=True, kw_only=True):
    """``/proc/PID/stat``; times in clock ticks, *start_ticks* since boot. Source: proc_pid_stat(5)."""

    pid: int
    comm: bytes
    state: str
    ppid: int
    minor_faults: int
    major_faults: int
    utime_ticks: int
    stime_ticks: int
    nice: int
    threads: int
    start_ticks: int
    vsize_bytes: int
    rss_pages: int
    processor: int


def parse_stat(raw: bytes) -> Stat:
    """
    Parse a ``stat`` line from its last ``)``: the name before it may hold anything, also ``) R 1``.

    Raises:
        ValueError: If it is none.
    """
    opening, closing = raw.find(b" ("), raw.rfind(b") ")
    fields = raw[closing + 2 :].split()
    if opening < 0 or closing < opening or len(fields) < 37:
        raise ValueError("not a line of /proc/PID/stat")
    # fields[0] is field 3 of the manual page, "state"
    return Stat(
        pid=int(raw[:opening]),
        comm=raw[opening + 2 : closing],
        state=fields[0].decode("ascii", "replace"),
        ppid=int(fields[1]),
        minor_faults=int(fields[7]),
        major_faults=int(fields[9]),
        utime_ticks=int(fields[11]),
        stime_ticks=int(fields[12]),
        nice=int(fields[16]),
        threads=int(fields[17]),
        start_ticks=int(fields[19]),
        vsize_bytes=int(fields[20]),
        rss_pages=int(fields[21]),
        processor=int(fields[36]),
    )


def pids(host: Host) -> Iterator[int]:
    """Yield the PIDs that ``/proc`` lists, as it lists them: never all of them in memory."""
    with os.scandir(host.path("/proc")) as entries:
        for entry in entries:
            if entry.name.isascii() and entry.name.isdigit():
                yield int(entry.name)


def read_at(dir_fd: int, name: str, limit: int) -> bytes:
    """Return what one read of *name*, a file in a process's directory, gives."""
    fd = os.open(name, READ_FLAGS, dir_fd=dir_fd)
    try:
        return os.read(fd, limit)
    finally:
        os.close(fd)


class Process:
    """
    One process, held by a descriptor of its ``/proc/PID`` and, on the real root, a pidfd.

    Both are opened once. The directory belongs to the process and not to the number: once that
    process is gone, every look-up in it fails, whoever has the PID by then. The start time is
    compared besides, so that nothing rests on one kernel's behaviour.

    Args:
        host: The machine.
        pid: Its number.
        start_ticks: When it started, where that is known.
        lived_at_s: Else a time, seconds since the epoch, at which it must have lived already.

    Raises:
        ReplacedError: If it is another process than the one that is meant.
        OSError: If there is no such process.
    """

    def __init__(
        self, host: Host, pid: int, start_ticks: int | None = None, *, lived_at_s: float | None = None
    ) -> None:
        self.pid = pid
        # Another root's PIDs belong to another PID namespace: there a pidfd would be somebody else's.
        self._pidfd = os.pidfd_open(pid) if host.root == "/" else -1
        self.dir_fd = -1
        try:
            self.dir_fd = os.open(host.path(f"/proc/{pid}"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self.start_ticks = self.stat().start_ticks
            self._confirm(start_ticks, lived_at_s)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release the descriptors."""
        for fd in (self.dir_fd, self._pidfd):
            if fd >= 0:
                os.close(fd)
        self.dir_fd = self._pidfd = -1

    def _confirm(self, start_ticks: int | None, lived_at_s: float | None) -> None:
        """Make sure that pidfd and directory belong to one process, and to the one that is meant."""
        if self._pidfd >= 0:
            # Not yet reaped, so the PID was nobody else's when the directory was opened.
            with contextlib.suppress(PermissionError):
                signal.pidfd_send_signal(self._pidfd, 0)
        if start_ticks is not None and start_ticks != self.start_ticks:
            raise ReplacedError(
                f"process {self.pid} is another one now: it started at tick {self.start_ticks}, not {start_ticks}"
            )
        if start_ticks is None and lived_at_s is not None and self._pidfd >= 0:
            age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - self.start_ticks / CLOCK_TICKS_PER_S
            if age_s + CLOCK_SLACK_S < time.time() - lived_at_s:
                raise ReplacedError(f"process {self.pid} is another one now: it started after the crash")

    def open(self, name: str) -> int:
        """Open the process's file *name*."""
        return os.open(name, READ_FLAGS | os.O_NOFOLLOW, dir_fd=self.dir_fd)

    def read(self, name: str, *, limit: int) -> bytes:
        """Read at most *limit* bytes of the process's file *name*."""
        fd = self.open(name)
        try:
            return b"".join(pieces(fd, limit=limit))
        finally:
            os.close(fd)

    def link(self, name: str) -> str:
        """Return where the link *name* points, as text; it is never followed."""
        return os.readlink(name, dir_fd=self.dir_fd)

    def stat(self) -> Stat:
        """Read ``stat``."""
        try:
            return parse_stat(self.read("stat", limit=STAT_LIMIT))
        except ValueError as exc:
            raise StepError(f"process {self.pid}: {exc}") from exc

    def check(self) -> None:
        """
        Make sure that it is still the same process.

        Raises:
            ReplacedError: If it is another one.
            ProcessLookupError: If it is gone; a zombie is not.
        """
        try:
            now = self.stat().start_ticks
        except OSError as exc:  # ESRCH, and ENOENT for every look-up in the directory of one that is gone
            raise ProcessLookupError(errno.ESRCH, f"process {self.pid} ended") from exc
        if now != self.start_ticks:
            raise ReplacedError(
                f"process {self.pid} was replaced while it was read: it started at tick {self.start_ticks}, now {now}"
            )
