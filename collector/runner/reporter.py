"""The worker's end of the socket pair."""

from __future__ import annotations

import socket
import time

import msgspec

from collector.host.passing import send_fds
from collector.runner.coroutine import Wait, until
from collector.runner.protocol import INTERRUPT, STOP, Done, Progress

PROGRESS_S = 0.1


class Reporter:
    """Reports a job's progress to the supervisor, and receives its requests."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reported_s = float("-inf")
        self._stopped = False

    def progress(self, size_bytes: int) -> None:
        """Report the bytes written so far, at most ten times a second."""
        now = time.monotonic()
        if now - self._reported_s >= PROGRESS_S:
            self._reported_s = now
            self._sock.send(msgspec.json.encode(Progress(size_bytes)))

    def interrupted(self) -> bool:
        """Return whether the supervisor needs this worker for something else."""
        return until(Wait(self._sock.fileno(), 0.0))

    def stopped(self) -> bool:
        """Return whether the program must end; an interrupt is ignored, because this job cannot wait."""
        while not self._stopped and until(Wait(self._sock.fileno(), 0.0)):
            self._stopped = self._sock.recv(len(INTERRUPT)) in (STOP, b"")
        return self._stopped

    def done(self, done: Done, fd: int | None = None) -> None:
        """End the job; *fd* goes to the supervisor."""
        send_fds(self._sock, msgspec.json.encode(done), [] if fd is None else [fd])
