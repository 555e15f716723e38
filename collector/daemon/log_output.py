"""Where lines of the log go, without waiting: a journald that hangs must not hang the supervisor."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, MutableMapping
from typing import Any

PIECE_BYTES = 4096
"""A pipe or socket that is writable takes this much without blocking (PIPE_BUF)."""

Render = Callable[[Any, str, MutableMapping[str, Any]], Any]
"""Makes a line of an event: structlog's last processor. Its arguments are a logger, the level and the fields."""


class DroppingLogger:
    """
    Passes lines on, or counts them as dropped; structlog's logger.

    Args:
        send: Takes a line without waiting, and returns whether it did.
        render: Makes the line that says how many were dropped.
    """

    def __init__(self, send: Callable[[Any], bool], render: Render) -> None:
        self._send = send
        self._render = render
        self._dropped = 0

    def msg(self, line: Any) -> None:
        """Pass a line on, after the number of those that were dropped before it."""
        if self._dropped:
            fields = {"event": "log.dropped", "level": "warning", "count": self._dropped}
            if self._send(self._render(None, "warning", fields)):
                self._dropped = 0
        if self._dropped or not self._send(line):
            self._dropped += 1

    debug = info = warning = error = critical = msg


class Stream:
    """Writes lines to a descriptor without blocking."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def write(self, text: str) -> bool:
        """Write one line; return whether all of it was taken."""
        data = memoryview(text.encode(errors="backslashreplace") + b"\n")
        while data:
            if not any(flags & select.POLLOUT for _, flags in self._poll.poll(0)):
                return False
            try:
                data = data[os.write(self._fd, data[:PIECE_BYTES]) :]
            except OSError:
                return False  # the reader is gone
        return True
