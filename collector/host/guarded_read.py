"""
Reads that may never return, each with a deadline.

Reading a process's ``cmdline``, ``environ``, ``maps``, ``smaps`` or ``numa_maps`` takes its ``mmap_lock``. If one of
its threads holds that lock while it sleeps on a dead disk, the reader sleeps too and cannot be interrupted. So such
reads run in a helper thread; one that does not return in time is left behind, and the next read gets a new thread.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from collector.model.errors import StepError
from collector.model.shares import has_room

T = TypeVar("T")
A = TypeVar("A")
MAX_WEDGED = 8
STACK_BYTES = 256 * 1024

_left_behind: list[threading.Thread] = []


class WedgedError(StepError):
    """A read did not return in time; its thread is left behind."""


class ExhaustedError(WedgedError):
    """A read was not tried: too many threads are stuck already, or none could be started."""


def wedged_threads() -> int:
    """Return how many helper threads of this process are stuck; if any are, the process should be replaced."""
    _left_behind[:] = [thread for thread in _left_behind if thread.is_alive()]
    return len(_left_behind)


class Guard:
    """
    Runs calls one at a time in a helper thread, and gives up on a call that takes longer than *timeout_s*.

    The thread starts with the first call. Once `MAX_WEDGED` threads of this process are stuck, calls are refused.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._helper: _Helper | None = None
        self.gave_up = 0
        """Number of calls given up so far."""
        self._blamed: Counter[str] = Counter()

    @property
    def longest_s(self) -> float:
        """The longest that a call can take before it is given up: progress is checked twice."""
        return 2 * self._timeout_s

    def blame(self, owner: str) -> None:
        """Note whose process it was that the last call was given up for."""
        self._blamed[owner] += 1

    def may_read(self, owner: str) -> bool:
        """Return whether a process of *owner* should be read: one user may have more stuck ones than threads exist."""
        return has_room(self._blamed, owner, MAX_WEDGED)

    def call(self, read: Callable[[], T], *, progress: Callable[[], int] = lambda: 0) -> T:
        """
        Return what *read* returns, or raise what it raises; while *progress* grows, it gets more time.

        Raises:
            WedgedError: If it does neither in time, or too many threads are stuck already.
        """
        if self._helper is None:
            self._helper = self._start()
        self._helper.tasks.put(read)
        before = progress()
        while True:
            try:
                value, error = self._helper.results.get(timeout=self._timeout_s)
                break
            except queue.Empty:
                if progress() == before:
                    self._leave_behind(self._helper)
                    raise WedgedError(f"gave up after {self._timeout_s:g} s") from None
                before = progress()
        if error is not None:
            raise error
        result: T = value
        return result

    def call_many(self, read: Callable[[A], T], arguments: Sequence[A], results: list[T]) -> None:
        """
        Append to *results* what *read* returns for each of *arguments*, with one hand-over to the thread.

        The deadline applies to each call separately.

        Raises:
            WedgedError: If the call for ``arguments[len(results)]`` does not return in time.
        """
        done: list[T] = []

        def read_all() -> None:
            for argument in arguments:
                done.append(read(argument))

        try:
            self.call(read_all, progress=lambda: len(done))
        finally:
            # A copy, because a thread that was left behind may still append to *done*.
            results.extend(done[:])

    def close(self) -> None:
        if self._helper is not None:
            self._helper.tasks.put(None)
            self._helper = None

    def _start(self) -> _Helper:
        if wedged_threads() >= MAX_WEDGED:
            self.gave_up += 1
            raise ExhaustedError(f"not tried: {MAX_WEDGED} reads are stuck already")
        try:
            return _Helper()
        except RuntimeError as exc:  # pthread_create(3): no memory, or a limit
            self.gave_up += 1
            raise ExhaustedError(f"not tried: {exc}") from exc

    def _leave_behind(self, helper: _Helper) -> None:
        self.gave_up += 1
        _left_behind.append(helper.thread)
        helper.tasks.put(None)
        self._helper = None


class _Helper:
    """A thread with its tasks and their results."""

    def __init__(self) -> None:
        self.tasks: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self.results: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        before = threading.stack_size(STACK_BYTES)
        try:
            # A daemon thread, because a stuck one must not keep the process from exiting.
            self.thread = threading.Thread(target=self._run, name="guarded-read", daemon=True)
            self.thread.start()
        finally:
            threading.stack_size(before)

    def _run(self) -> None:
        while (task := self.tasks.get()) is not None:
            try:
                self.results.put((task(), None))
            except Exception as exc:  # noqa: BLE001 - raised again by the caller's thread
                self.results.put((None, exc))
