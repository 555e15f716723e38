"""Signals as bytes on a socket, so that they are handled between two events like any other."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Mapping

from collector.daemon.loop import Loop


class Signals:
    """
    Signals of this process, served by a loop.

    Args:
        loop: Where.
        handlers: What to call, by number.
    """

    def __init__(self, loop: Loop, handlers: Mapping[signal.Signals, Callable[[], None]]) -> None:
        self._handlers = handlers
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in handlers:
            signal.signal(number, lambda *_: None)
        loop.watch(self._reader.fileno(), self._read)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in self._reader.recv(64):
                if handler := self._handlers.get(signal.Signals(number)):
                    handler()
