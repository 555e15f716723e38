"""The supervisor's loop: descriptors, timers and lines in one thread."""

from __future__ import annotations

import heapq
import itertools
import selectors
import time
from collections.abc import Callable
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

    def watch(self, fd: int, callback: Callback) -> None:
        """Call *callback* whenever *fd* is readable."""
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def unwatch(self, fd: int) -> None:
        """Forget *fd*; it must still be open."""
        self._selector.unregister(fd)

    def call_at(self, at_s: float, callback: Callback) -> Callback:
        """Call *callback* once the monotonic clock shows *at_s*; return what cancels that."""
        entry = (at_s, next(self._order), callback)
        heapq.heappush(self._timers, entry)

        def cancel() -> None:
            if entry in self._timers:
                self._timers.remove(entry)
                heapq.heapify(self._timers)

        return cancel

    def call_later(self, delay_s: float, callback: Callback) -> Callback:
        """Call *callback* in so many seconds."""
        return self.call_at(time.monotonic() + delay_s, callback)

    def spawn(self, line: Task[T], done: Callable[[T], None]) -> None:
        """Drive *line* beside everything else; call *done* with what it returns."""
        self._step(line, None, done)

    def run(self) -> None:
        """Turn until `stop`."""
        self._running = True
        while self._running:
            for key, _ in self._selector.select(self._timeout()):
                if self._selector.get_map().get(key.fd) is key:  # an earlier callback may have let go of it
                    key.data()
            self._fire()

    def stop(self) -> None:
        """Let `run` return after this turn."""
        self._running = False

    def close(self) -> None:
        """Release the selector's descriptor."""
        self._selector.close()

    def _step(self, line: Task[T], value: bool | None, done: Callable[[T], None]) -> None:
        try:
            wait = next(line) if value is None else line.send(value)
        except StopIteration as end:
            done(end.value)
            return
        self._arm(line, wait, done)

    def _arm(self, line: Task[T], wait: Wait, done: Callable[[T], None]) -> None:
        def readable() -> None:
            self.unwatch(wait.fd)
            cancel()
            self._step(line, True, done)

        def late() -> None:
            if wait.fd >= 0:
                self.unwatch(wait.fd)
            self._step(line, False, done)

        cancel = self.call_at(wait.until_s, late)
        if wait.fd >= 0:
            self.watch(wait.fd, readable)

    def _timeout(self) -> float | None:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _fire(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
