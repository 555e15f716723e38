"""Between chunks: ask the gate, keep to the rate, flush the disk's cache, stop when told to."""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from collector.copying.rate.controller import Controller
from collector.copying.rate.flush_batch import FlushBatch
from collector.copying.rate.limiter import Limiter
from collector.model.copying import Advice, Feedback
from collector.model.errors import UsageError

ASK_EVERY_S = 0.05
TRICKLE_INTERVAL_S = 0.25
"""Seconds per chunk at TRICKLE: 4 MiB/s at the usual chunk size."""


def always_go() -> Feedback:
    return Feedback(Advice.GO)


def ignore(_: int) -> None:
    return None


@functools.cache
def limiter_for(rate: str | int, device: int, *, reading: bool = False) -> Limiter:
    """
    Return the limiter of writes to *device* (``st_dev``), or of reads from it; it outlives the copy.

    Whatever the rate, one controller learns the disk: the next file starts at what the last one found out.

    Raises:
        UsageError: If *rate* is neither ``adaptive``, nor ``max``, nor a positive number of bytes per second.
    """
    if rate == "max":
        return Limiter()
    if rate == "adaptive":
        return Limiter(controller=controller_for(device, reading=reading))
    if isinstance(rate, int) and rate > 0:
        return Limiter(rate, controller_for(device, reading=reading))
    raise UsageError(f"a rate of {rate!r}", hint="adaptive, max, or bytes per second, above 0")


@functools.cache
def controller_for(device: int, *, reading: bool) -> Controller:  # noqa: ARG001 - the cache's key
    return Controller()


class Stopped(Exception):  # noqa: N818 - a signal, not an error
    """The gate said STOP."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True, kw_only=True)
class Throttle:
    """
    Holds one copy back as the gate and the disk demand. The caller serialises calls of `wait`; `record` is thread-safe.

    Args:
        limiter: Decides the wait before each chunk.
        ask: The gate; asked at most every 50 ms, from whichever thread takes the next chunk.
        flush: Flushes the disk's write cache, if it has one.
        flushes: Counts the flushes of the disk, whoever asked for them; called before and after each flush.
    """

    limiter: Limiter
    ask: Callable[[], Feedback] = always_go
    flush: Callable[[], None] | None = None
    flushes: Callable[[], int | None] = lambda: None
    pauses: int = 0
    _gate_slow_downs: int = field(init=False, default=0)
    _reasons: dict[Advice, str] = field(init=False, default_factory=dict)
    _slow_downs_before: int = field(init=False)
    _asked_s: float = field(init=False, default=0.0)
    _advice: Advice = field(init=False, default=Advice.GO)
    _cached: int = field(init=False, default=0)
    _latency_s: float = field(init=False, default=0.0)
    _started_s: float = field(init=False, default=0.0)
    _flushes_seen: int | None = field(init=False, default=None)
    _flush_s: tuple[float, float] = field(init=False, default=(0.0, 0.0))
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _flushing: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._slow_downs_before = self.limiter.slow_downs

    @property
    def slow_downs(self) -> int:
        """Return how often the limiter or the gate slowed this copy down."""
        return self._gate_slow_downs + self.limiter.slow_downs - self._slow_downs_before

    @property
    def gate_reason(self) -> str | None:
        """Return what the gate said when it first slowed this copy down, and when it first paused it."""
        return "; ".join(f"{advice}: {reason}" for advice, reason in self._reasons.items()) or None

    def wait(self, size: int) -> None:
        """Wait until *size* bytes may be written; raise `Stopped` if the gate says so."""
        self._consult()
        now = time.monotonic()
        with self._lock:
            start = now + max(self.limiter.reserve(now, size), self._gate_delay(now))
            self._started_s = start
        while (left := start - time.monotonic()) > 0:
            time.sleep(min(left, ASK_EVERY_S))
            self._consult()  # at 100 KiB/s a chunk waits for 10 s

    def _gate_delay(self, now: float) -> float:
        """Return how many seconds the gate's advice holds the next chunk back."""
        match self._advice:
            case Advice.SLOW:  # a write, then a pause as long: one writer at half the rate, instead of two
                return max(0.0, self._started_s + 2 * self._latency_s - now)
            case Advice.TRICKLE:
                return max(0.0, self._started_s + TRICKLE_INTERVAL_S - now)
        return 0.0

    def record(self, size: int, latency_s: float) -> None:
        """Count a write that took *latency_s*; flush once a batch may lie in the disk's cache."""
        with self._lock:
            now = time.monotonic()
            self._latency_s = latency_s
            self.limiter.record(now, size, latency_s - self._flushing_within(now - latency_s, now))
            self._cached += size
        flush, batch = self.flush, self.limiter.flush_batch
        if flush and batch and self._cached >= batch.size:
            with self._flushing:  # one at a time: the others go on writing until it is their turn to flush
                if self._cached >= batch.size:
                    self._timed_flush(flush, batch)

    def _flushing_within(self, began_s: float, ended_s: float) -> float:
        """Return how much of a write's time the last flush took: a write that waits for it is not late."""
        return max(0.0, min(ended_s, self._flush_s[1]) - max(began_s, self._flush_s[0]))

    def _timed_flush(self, flush: Callable[[], None], batch: FlushBatch) -> None:
        before, started = self.flushes(), time.monotonic()
        with self._lock:
            self._cached = 0
            self._flush_s = (started, math.inf)
        flush()
        after = self.flushes()
        with self._lock:
            now = time.monotonic()
            self._flush_s = (started, now)
            counted = before is not None and before != after
            if not counted or self._flushes_seen not in (None, before):
                batch.mark_shared(now)
            self._flushes_seen = after
            self.limiter.record_flush(now, now - started)

    def _consult(self) -> None:
        """Ask the gate unless it was asked within the last 50 ms; wait while it says PAUSE."""
        if time.monotonic() - self._asked_s < ASK_EVERY_S:
            return
        while True:
            feedback = self.ask()
            before, self._advice = self._advice, feedback.advice
            self._asked_s = time.monotonic()
            match feedback.advice:
                case Advice.STOP:
                    raise Stopped(feedback.reason)
                case Advice.GO:
                    return
            self._reasons.setdefault(feedback.advice, feedback.reason)
            if feedback.advice is not Advice.PAUSE:
                self._gate_slow_downs += before is not feedback.advice
                return
            self.pauses += before is not Advice.PAUSE
            time.sleep(ASK_EVERY_S)
