"""The metrics in a file for node_exporter: the daemon's end, which makes the text and waits for nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable

from collector.archive import directory
from collector.daemon import textfile_writer
from collector.daemon.helper_process import fork_helper
from collector.daemon.journal import get_logger
from collector.daemon.loop import Loop
from collector.daemon.textfile_writer import PROBLEM_LENGTH, WRITTEN
from collector.host.passing import send_fds

PERIOD_S = 15.0
"""Prometheus scrapes every 15 to 60 s."""

STALLED_S = 60.0
"""A writer that has not answered for this long hangs on its disk."""

log = get_logger()


class Textfile:
    """
    Has the metrics written while ``metrics.textfile`` names a file.

    Args:
        loop: Calls `turn`, and watches for answers.
        may_fork: Returns whether a process may be forked now.
    """

    def __init__(self, loop: Loop, may_fork: Callable[[], bool]) -> None:
        self._loop = loop
        self._may_fork = may_fork
        self._path: Callable[[], str] = str
        self._text: Callable[[], str] = str
        self._sock: socket.socket | None = None
        self._pids: list[int] = []
        self._asked_s: float | None = None
        """When the writer was given the text that it has not answered yet."""
        self._problem = ""

    @property
    def pids(self) -> tuple[int, ...]:
        """The process that writes, and those before it that have not ended."""
        return tuple(self._pids)

    def start(self, path: Callable[[], str], text: Callable[[], str]) -> None:
        """Write what *text* returns to the file that *path* returns, now and every `PERIOD_S`; empty: to none."""
        self._path, self._text = path, text
        self._loop.call_every(PERIOD_S, self.turn)

    def turn(self) -> None:
        """Have the file written, unless the writer is still at the last one."""
        self._reap()
        path = self._path()
        if not path:
            self.close()
            return
        if self._sock is None and self._may_fork():
            with contextlib.suppress(OSError):  # out of processes or descriptors: next time
                self._fork()
        if self._sock is None:
            return
        if self._asked_s is None:
            self._ask(self._sock, path)
        elif time.monotonic() - self._asked_s >= STALLED_S:
            self._say("its disk does not answer")

    def close(self) -> None:
        """Let the writer end, and wait for nothing."""
        if self._sock is not None:
            self._loop.unwatch(self._sock.fileno())
            self._sock.close()
            self._sock = self._asked_s = None

    def _fork(self) -> None:
        pid, ours = fork_helper("collector-prom", textfile_writer.serve)
        self._pids.append(pid)
        ours.setblocking(False)
        self._sock = ours
        self._loop.watch(ours.fileno(), self._answered)

    def _reap(self) -> None:
        self._pids = [pid for pid in self._pids if not os.waitpid(pid, os.WNOHANG)[0]]

    def _ask(self, sock: socket.socket, path: str) -> None:
        try:
            text_fd = os.memfd_create("collector-metrics", os.MFD_CLOEXEC)
            try:
                directory.write_all(text_fd, self._text().encode())
                send_fds(sock, os.fsencode(path), [text_fd])
            finally:
                os.close(text_fd)
        except OSError as exc:
            self._say(exc.strerror or str(exc))
        else:
            self._asked_s = time.monotonic()

    def _answered(self) -> None:
        try:
            answer = self._sock.recv(PROBLEM_LENGTH) if self._sock is not None else b""
        except OSError:
            answer = b""
        self._asked_s = None
        if answer == WRITTEN:
            self._say("")
        elif answer:
            self._say(answer.decode(errors="backslashreplace"))
        else:  # somebody killed it
            self.close()

    def _say(self, problem: str) -> None:
        """Log a change: why the file is not written, or that it is again."""
        if problem and problem != self._problem:
            log.warning("metrics.unwritten", path=self._path(), reason=problem)
        elif self._problem and not problem:
            log.info("metrics.written", path=self._path())
        self._problem = problem
