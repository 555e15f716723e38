"""Receives a stream from a socket or a pipe: into one buffer while another is written."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from queue import Empty, SimpleQueue

from collector.copying.buffers import Buffer
from collector.copying.rate.throttle import Stopped
from collector.model.artifact import Incoming

WAIT_S = 0.05
"""How long to wait before the gate is asked although nothing came."""

TIMEOUT = struct.pack("@ll", 0, int(WAIT_S * 1_000_000))  # struct timeval

Take = Callable[[memoryview], int | None]
"""Reads into memory; returns 0 at the end of the stream, ``None`` if nothing came within `WAIT_S`."""


class Receiver:
    """
    Iterates over what comes, until it ends for whatever reason.

    With a thread of its own it took 2.0 to 3.0 s to receive 2 GiB from the kernel and write them, else 4.2 to 4.5.

    Args:
        incoming: What to receive.
        buffers: All of the same size. A buffer that was yielded is filled again once the next one is asked for.
        idle: Called whenever nothing came for a while; after `Stopped`, what has come is yielded, and no more.

    Attributes:
        stopped: Whether *idle* said so.
    """

    def __init__(self, incoming: Incoming, buffers: list[Buffer], idle: Callable[[], object]) -> None:
        self._incoming = incoming
        self._ask = idle
        self._stop = ""
        self.stopped = False
        self._head = memoryview(incoming.head)
        self._left = sys.maxsize if incoming.limit_bytes is None else incoming.limit_bytes
        self._received = 0
        self._cut = self._closed = False
        self._failure: OSError | None = None
        self._empty: SimpleQueue[Buffer | None] = SimpleQueue()
        self._filled: SimpleQueue[tuple[Buffer, int] | None] = SimpleQueue()
        for buffer in buffers:
            self._empty.put(buffer)
        self._stack = ExitStack()
        self._take = self._stack.enter_context(opened_stream(incoming.fd))
        self._thread = threading.Thread(target=self._receive, daemon=True)

    def close(self) -> None:
        """Stop receiving; the descriptor stays open."""
        self._closed = True
        self._empty.put(None)
        if self._thread.ident is not None:
            self._thread.join()
        self._stack.close()

    @property
    def reason(self) -> str | None:
        """Return why the stream is incomplete, once the iteration has come to its end."""
        if self._failure is not None:
            return f"the source failed: {self._failure.strerror}"
        if self.stopped:
            return self._stop
        if self._cut:
            return f"limited to {self._incoming.limit_bytes} bytes by max_bytes"
        missing = (self._incoming.size_bytes or 0) - self._received
        return f"the core ended {missing} bytes early" if missing > 0 else None

    def __iter__(self) -> Iterator[tuple[Buffer, int]]:
        """Yield buffers and how many bytes each holds; only the last is not full."""
        with contextlib.suppress(RuntimeError):  # no memory for a thread: one after the other
            self._thread.start()
        while (filled := self._next()) is not None:
            yield filled
            self._empty.put(filled[0])

    def _idle(self) -> None:
        try:
            self._ask()
        except Stopped as exc:
            self._closed = self.stopped = True
            self._stop = exc.reason or "stopped by the gate"

    def _next(self) -> tuple[Buffer, int] | None:
        if self._thread.ident is None:
            self._receive_one(self._idle)
        while True:
            try:
                return self._filled.get(timeout=WAIT_S)
            except Empty:
                self._idle()

    def _receive(self) -> None:
        while self._receive_one(int):
            pass

    def _receive_one(self, idle: Callable[[], object]) -> bool:
        """Fill the next buffer; return False at the end of the stream."""
        buffer = self._empty.get()
        if buffer is None:
            return False
        used = self._fill(buffer.view, idle)
        if used:
            self._filled.put((buffer, used))
        if used == len(buffer.view):
            return True
        self._filled.put(None)
        return False

    def _fill(self, buffer: memoryview, idle: Callable[[], object]) -> int:
        """Fill *buffer* as far as the stream and its limit go; return the number of bytes."""
        view = buffer[: self._left]
        used = 0
        while used < len(view) and (got := self._some(view[used:], idle)):
            used += got
            self._received += got
            self._left -= got
        if not self._left:
            self._cut = self._some(memoryview(bytearray(1)), idle) > 0
        return used

    def _some(self, view: memoryview, idle: Callable[[], object]) -> int:
        """Read at least one byte; return 0 at the end, or once it was closed."""
        if head := self._head[: len(view)]:
            view[: len(head)] = head
            self._head = self._head[len(head) :]
            return len(head)
        while not self._closed:
            try:
                got = self._take(view)
            except OSError as exc:
                self._failure = exc
                return 0
            if got is not None:
                return got
            idle()
        return 0


@contextlib.contextmanager
def opened_stream(fd: int) -> Iterator[Take]:
    """
    Open a socket or a pipe, which stays the caller's, for reading.

    The kernel sends a core in pieces of 12 KiB; waiting for all of a MiB takes one call instead of 90. A signal or the
    time limit end that early. Source: recv(2), ``MSG_WAITALL``; socket(7), ``SO_RCVTIMEO``.
    """
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        ready = select.poll()
        ready.register(fd, select.POLLIN)
        yield lambda view: os.readv(fd, [view]) if ready.poll(WAIT_S * 1000) else None
        return
    with socket.socket(fileno=os.dup(fd)) as sock:
        sock.setblocking(True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, TIMEOUT)

        def receive(view: memoryview) -> int | None:
            try:
                return sock.recv_into(view, 0, socket.MSG_WAITALL)
            except BlockingIOError:
                return None

        yield receive
