"""The worker's end of the socket pair."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import msgspec

from collector.host import process
from collector.host.passing import send_fds
from collector.model.copying import Advice, Feedback
from collector.runner.coroutine import Wait, until
from collector.runner.protocol import INTERRUPT, STOP
from collector.runner.replies import Done, Progress

PROGRESS_S = 0.1
"""Interval of reports: what a person can read, and far below what the supervisor allows a worker."""

NO_PROGRESS = Progress(0)
SLOWED_LIMIT = 500


class Reporter:
    """Reports a job's progress to the supervisor, and receives its requests."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reported_s = float("-inf")
        self._stopped = False
        self._known = self._reported = NO_PROGRESS

    def progress(self, size_bytes: int, total_bytes: int | None = None) -> None:
        """Report the bytes written so far, of how many if that is known, at most ten times a second."""
        self._report(msgspec.structs.replace(self._known, size_bytes=size_bytes, total_bytes=total_bytes))

    def heard(self, feedback: Feedback) -> Feedback:
        """Report what the gate says of a copy if that is news: while it is paused, nothing else is reported."""
        slowed = "" if feedback.advice is Advice.GO else f"{feedback.advice}: {feedback.reason}"[:SLOWED_LIMIT]
        if slowed != self._reported.slowed:
            self._report(msgspec.structs.replace(self._known, slowed=slowed))
        return feedback

    def _report(self, progress: Progress) -> None:
        self._known = progress
        now = time.monotonic()
        if now - self._reported_s >= PROGRESS_S:
            self._reported_s, self._reported = now, progress
            with _dying_with_supervisor():
                self._sock.send(msgspec.json.encode(progress))

    def interrupted(self) -> bool:
        """Return whether the supervisor needs this worker for something else."""
        return until(Wait(self._sock.fileno(), 0.0))

    def stopped(self) -> bool:
        """Return whether the program must end; an interrupt is ignored, because this job cannot wait."""
        while not self._stopped and until(Wait(self._sock.fileno(), 0.0)):
            with _dying_with_supervisor():
                message = self._sock.recv(len(INTERRUPT))
                if not message:
                    raise EOFError
                self._stopped = message == STOP
        return self._stopped

    def done(self, done: Done, fd: int | None = None) -> None:
        """End the job; *fd* goes to the supervisor."""
        self._known = self._reported = NO_PROGRESS
        send_fds(self._sock, msgspec.json.encode(done), [] if fd is None else [fd])


@contextlib.contextmanager
def _dying_with_supervisor() -> Iterator[None]:
    """
    Die if it has gone: it was killed, and its next run goes on with what is on disk.

    A copy that ended with a record now, as one that is stopped does, would be taken for all there is.
    """
    try:
        yield
    except (EOFError, BrokenPipeError, ConnectionResetError):
        process.die_as_parent_did()
