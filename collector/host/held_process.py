"""A crashed process that the kernel holds until its dump has been received, or refused."""

from __future__ import annotations

import enum
import os
import time
from dataclasses import dataclass

from collector.host import coredump_socket
from collector.model.marker import ProcessRef


class DumpSource(enum.StrEnum):
    """Where the dump comes from: the kernel's coredump socket, or the pipe of a handler that it has started."""

    SOCKET = "socket"
    PIPE = "pipe"


@dataclass(slots=True, eq=False, kw_only=True)
class HeldProcess:
    """
    A process that is held until `release`; with a pipe, for as long as that is open anywhere. Its `/proc` reads as that
    of a live one.

    Args:
        process: Certain, by its pidfd.
        source: How the dump comes.
        stream_fd: The connection, or the pipe; closed by `release`, like *pidfd*.
        pidfd: Of the process.
        since_s: When it was first seen held; monotonic, like *deadline_s*.
        deadline_s: When it must be let go.
        memory_bytes: What its death will free, more or less.
        hurry: Why it must be let go at once, with the little that this takes; empty if its dump may be received.
    """

    process: ProcessRef
    source: DumpSource
    stream_fd: int
    pidfd: int
    since_s: float
    deadline_s: float
    memory_bytes: int = 0
    hurry: str = ""
    held_s: float | None = None
    """For how long it was held, once it is not any more."""
    ended: str = ""
    """Why it was let go."""

    @property
    def is_held(self) -> bool:
        return self.held_s is None

    def accept(self) -> None:
        """Ask for the dump, then to be read from *stream_fd*; raise `StepError` or `OSError` if it does not come."""
        if self.source is DumpSource.SOCKET:
            coredump_socket.accept(self.stream_fd)

    def refuse(self, reason: str) -> None:
        """Let the process end without a dump."""
        if self.is_held and self.source is DumpSource.SOCKET:
            coredump_socket.reject(self.stream_fd)
        self.release(reason)

    def release(self, reason: str) -> None:
        """Let the process end; does nothing once it was."""
        if not self.is_held:
            return
        self.held_s, self.ended = round(time.monotonic() - self.since_s, 6), reason
        if self.source is DumpSource.SOCKET:
            coredump_socket.end(self.stream_fd)
        os.close(self.stream_fd)
        os.close(self.pidfd)
