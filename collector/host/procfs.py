"""Processes in ``/proc``, each held so that it is not mistaken for a later one with the same PID."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Generator, Iterator
from functools import partial
from typing import Self

from collector.host.clock import boot_s
from collector.host.files import READ_FLAGS, Host, body, read_all
from collector.host.guarded_read import Guard
from collector.host.living_thread import living_thread, thread_directory
from collector.host.process_stat import Stat, read_stat
from collector.host.syscalls import syscall
from collector.model.errors import StepError

CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PIDFD_GETFD = 438  # the same number on every architecture
PIDFD_THREAD = os.O_EXCL
OF_FIRST_THREAD = frozenset({"stat", "status", "comm", "wchan", "sched", "schedstat", "stack", "syscall"})
"""What ``/proc/PID`` has of the first thread alone, whatever the others do."""


class ReplacedError(StepError):
    """Another process has the PID now; what was read under it is not evidence."""


def boot_ticks() -> int:
    """Return the time since boot, suspended time included, in the clock ticks that start times are in."""
    return int(boot_s() * CLOCK_TICKS_PER_S)


def pids(host: Host) -> Generator[int, None, None]:
    """Yield the PIDs in ``/proc`` one by one, so that the list is never in memory as a whole."""
    with os.scandir(host.path("/proc")) as entries:
        for entry in entries:
            if entry.name.isascii() and entry.name.isdigit():
                yield int(entry.name)


class Process:
    """
    One process, held by a descriptor of its ``/proc/PID`` and, on the real root, a pidfd.

    Both are opened once. The directory belongs to the process, not to the number: after that process has ended every
    look-up in it fails, even if the PID is in use again. The start time is compared as well, so as not to depend on
    one kernel's behaviour.

    What the whole process has, such as its memory and descriptors, is read through *whole_fd*: the same directory, or,
    if its first thread has exited, that of one that lives; see `living_thread`.

    Args:
        start_ticks: Its start time, without which the process is whoever has the PID now.

    Raises:
        ReplacedError: If the PID belongs to another process.
        OSError: If there is no such process.
    """

    def __init__(self, host: Host, pid: int, start_ticks: int | None = None) -> None:
        self.pid = pid
        # PIDs below another root are of another namespace: a pidfd would be a different process's.
        self._pidfd = os.pidfd_open(pid) if host.root == "/" else -1
        self.dir_fd = self.whole_fd = -1
        try:
            self.dir_fd = os.open(host.path(f"/proc/{pid}"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self.whole_fd = self.dir_fd
            first = self.stat()
            self.start_ticks = first.start_ticks
            self._confirm(start_ticks)
            if (thread := living_thread(self.dir_fd, first)) is not None:
                self._hold_thread(host, thread)
                self.check()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for fd in {self.dir_fd, self.whole_fd, self._pidfd}:
            if fd >= 0:
                os.close(fd)
        self.dir_fd = self.whole_fd = self._pidfd = -1

    def _hold_thread(self, host: Host, thread: int) -> None:
        """Read what the whole process has through a thread of it that lives."""
        self.whole_fd = thread_directory(host, thread, self.pid) or self.dir_fd
        if self._pidfd < 0 or self.whole_fd == self.dir_fd:
            return
        with contextlib.suppress(OSError):  # EINVAL before Linux 6.9: its descriptors cannot be duplicated then
            pidfd = os.pidfd_open(thread, PIDFD_THREAD)
            try:
                read_stat(self.whole_fd)  # fails if the thread has ended, so that its number may be another's
            except OSError:
                os.close(pidfd)
                raise
            os.close(self._pidfd)
            self._pidfd = pidfd

    def duplicate(self, fd: int) -> int:
        """
        Return a duplicate of the process's descriptor *fd*, for a socket: closing one of a file may write to a server.

        Raises:
            OSError: ``EBADF`` if it is closed, ``ESRCH`` if the process has none any more, ``EPERM`` without
                CAP_SYS_PTRACE or where Yama allows no tracing at all, ``ENOSYS`` before Linux 5.6.

        Source: pidfd_getfd(2).
        """
        return syscall(PIDFD_GETFD, self._pidfd, fd, 0)

    def _confirm(self, start_ticks: int | None) -> None:
        """Check that pidfd and directory belong to the same process, and to the right one."""
        if self._pidfd >= 0:
            # If it has not been reaped, the directory opened under its PID is its own.
            with contextlib.suppress(PermissionError):
                signal.pidfd_send_signal(self._pidfd, 0)
        if start_ticks is not None and start_ticks != self.start_ticks:
            raise ReplacedError(
                f"PID {self.pid} belongs to another process now: started at tick {self.start_ticks}, not {start_ticks}"
            )

    def open(self, name: str) -> int:
        return os.open(name, READ_FLAGS | os.O_NOFOLLOW, dir_fd=self._directory_of(name))

    def read(self, name: str, *, limit: int) -> bytes:
        return read_all(self.open(name), limit=limit)

    def stream(self, name: str, *, limit: int, guard: Guard | None = None) -> bytes | Iterator[bytes]:
        """
        Read a file; each piece is checked to be this process's before it is passed on.

        Args:
            name: The file, below ``/proc/PID``.
            limit: Maximum bytes; the stream then ends with `Truncated`.
            guard: Runs each read in a helper thread, with a deadline.

        Raises:
            StepError: If the PID is another process's by now, or the guard gave up.
            OSError: From the kernel.
        """
        if guard is None:
            return body(self.open(name), limit=limit, check=self.check)

        def read(fd: int, size: int) -> bytes:
            return guard.call(partial(os.read, fd, size))

        return body(guard.call(partial(self.open, name)), limit=limit, check=self.check, read=read)

    def link(self, name: str) -> str:
        """Return the target of the symlink *name* as text, without following it."""
        return os.readlink(name, dir_fd=self.whole_fd)

    def _directory_of(self, name: str) -> int:
        return self.dir_fd if name in OF_FIRST_THREAD else self.whole_fd

    def stat(self) -> Stat:
        try:
            return read_stat(self.dir_fd)
        except ValueError as exc:
            raise StepError(f"process {self.pid}: {exc}") from exc

    def check(self) -> None:
        """
        Check that it is still the same process.

        Raises:
            ReplacedError: If the PID is another process's.
            ProcessLookupError: If it has ended; a zombie has not.
        """
        try:
            now = self.stat().start_ticks
        except OSError as exc:  # ESRCH, or ENOENT for a look-up in the directory of a process that ended
            raise ProcessLookupError(errno.ESRCH, f"process {self.pid} ended") from exc
        if now != self.start_ticks:
            raise ReplacedError(
                f"process {self.pid} was replaced while it was read: it started at tick {self.start_ticks}, now {now}"
            )
