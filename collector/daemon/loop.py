"""The supervisor's loop: descriptors, timers, signals and tasks in one thread."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import selectors
import signal
import socket
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from collector.runner.coroutine import Task, Wait

T = TypeVar("T")
Callback = Callable[[], None]


class Loop:
    """A `selectors` loop with timers on the monotonic clock."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callback]] = []
        self._order = itertools.count()
        self._running = False
        self._signals: tuple[socket.socket, ...] = ()

    def watch(self, fd: int, callback: Callback) -> None:
        """Call *callback* whenever *fd* is readable."""
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def unwatch(self, fd: int) -> None:
        """Stop watching *fd*; it must still be open."""
        self._selector.unregister(fd)

    def handle_signals(self, handlers: Mapping[signal.Signals, Callback]) -> None:
        """Call the handler of a signal between two other callbacks: signals arrive as bytes on a socket."""
        reader, writer = self._signals = socket.socketpair()
        for end in self._signals:
            end.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in handlers:
            signal.signal(number, lambda *_: None)

        def read() -> None:
            with contextlib.suppress(BlockingIOError):
                for number in reader.recv(64):
                    if handler := handlers.get(signal.Signals(number)):
                        handler()

        self.watch(reader.fileno(), read)

    def call_at(self, at_s: float, callback: Callback) -> Callback:
        """Call *callback* at *at_s* on the monotonic clock; return a function that cancels the timer."""
        entry = (at_s, next(self._order), callback)
        heapq.heappush(self._timers, entry)

        def cancel() -> None:
            if entry in self._timers:
                self._timers.remove(entry)
                heapq.heapify(self._timers)

        return cancel

    def call_later(self, delay_s: float, callback: Callback) -> Callback:
        """Call *callback* after *delay_s* seconds; return a function that cancels the timer."""
        return self.call_at(time.monotonic() + delay_s, callback)

    def call_every(self, period_s: float, callback: Callback) -> None:
        """Call *callback* now, and again every *period_s* seconds."""
        callback()
        self.call_later(period_s, lambda: self.call_every(period_s, callback))

    def spawn(self, task: Task[T], done: Callable[[T], None]) -> None:
        """Run *task* beside everything else; call *done* with its return value."""
        self._step(task, None, done)

    def run(self) -> None:
        self._running = True
        while self._running:
            for key, _ in self._selector.select(self._timeout()):
                if self._selector.get_map().get(key.fd) is key:  # an earlier callback may have unwatched it
                    key.data()
            self._fire()

    def stop(self) -> None:
        """Let `run` return after the current iteration."""
        self._running = False

    def _step(self, task: Task[T], value: bool | None, done: Callable[[T], None]) -> None:
        try:
            wait = next(task) if value is None else task.send(value)
        except StopIteration as end:
            done(end.value)
            return
        self._arm(task, wait, done)

    def _arm(self, task: Task[T], wait: Wait, done: Callable[[T], None]) -> None:
        def readable() -> None:
            self.unwatch(wait.fd)
            cancel()
            self._step(task, True, done)

        def late() -> None:
            if wait.fd >= 0:
                self.unwatch(wait.fd)
            self._step(task, False, done)

        cancel = self.call_at(wait.until_s, late)
        if wait.fd >= 0:
            self.watch(wait.fd, readable)

    def _timeout(self) -> float | None:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _fire(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
