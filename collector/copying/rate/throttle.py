"""Between chunks: ask the gate, keep the pace, stop where told."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from collector.copying.rate.controller import Adaptive
from collector.copying.rate.flush_batch import WriteCache
from collector.copying.rate.limiter import Bounded, Max, Pace
from collector.model.copying import Advice, Feedback
from collector.model.errors import UsageError

ASK_EVERY_S = 0.05
TRICKLE_INTERVAL_S = 0.25
"""At TRICKLE, one chunk in so many seconds: 4 MiB/s at the usual chunk."""

PSI_EVERY_S = 2.0  # the kernel renews its sums every 2 s; Documentation/accounting/psi.rst

_learnt: dict[tuple[int, bool], Adaptive] = {}


def always_go() -> Feedback:
    """Advise to go on."""
    return Feedback(Advice.GO)


def nobody_can_tell() -> None:
    """Count no flushes."""


def ignore(_: int) -> None:
    """Tell nobody."""


def pace_for(rate: str | int, device: int, *, reading: bool = False) -> Pace:
    """
    Return the pace of writing to *device* (``st_dev``), or of reading from it.

    What `Adaptive` learnt of a disk outlives the copy: the next file starts at its rate.

    Raises:
        UsageError: If *rate* is neither ``adaptive``, nor ``max``, nor a positive number.
    """
    if rate == "max":
        return Max()
    adaptive = _learnt.setdefault((device, reading), Adaptive())
    if rate == "adaptive":
        return adaptive
    if isinstance(rate, int) and rate > 0:
        return Bounded(rate, adaptive)
    raise UsageError(f"a rate of {rate!r}", hint="adaptive, max, or bytes per second, above 0")


class Stopped(Exception):  # noqa: N818 - a signal, not an error
    """The gate said STOP."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True, kw_only=True)
class Steering:
    """
    One copy's way between the gate and the disk. Calls are serialised by the caller, except `done`.

    Args:
        pace: Decides the wait before each chunk.
        ask: The gate; asked at most every 50 ms, from whichever thread takes the next chunk.
        flush: Empties the disk's write cache, where it has one.
        flushes: Counts what the disk has flushed, for whomever; looked at around each flush.
    """

    pace: Pace
    ask: Callable[[], Feedback] = always_go
    flush: Callable[[], None] | None = None
    flushes: Callable[[], int | None] = nobody_can_tell
    pauses: int = 0
    gate_slow_downs: int = 0
    _reasons: dict[Advice, str] = field(init=False, default_factory=dict)
    _slow_downs_before: int = field(init=False)
    _asked_s: float = field(init=False, default=0.0)
    _advice: Advice = field(init=False, default=Advice.GO)
    _waited_s: float = field(init=False, default=0.0)
    _cached: int = field(init=False, default=0)
    _latency_s: float = field(init=False, default=0.0)
    _turn_s: float = field(init=False, default=0.0)
    _flushes_seen: int | None = field(init=False, default=None)
    _flush_s: tuple[float, float] = field(init=False, default=(0.0, 0.0))
    _psi: tuple[float, float, float] | None = field(init=False, default=None)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _flushing: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._slow_downs_before = self.pace.slow_downs

    @property
    def slow_downs(self) -> int:
        """Return how often the pace or the gate slowed this copy down."""
        return self.gate_slow_downs + self.pace.slow_downs - self._slow_downs_before

    @property
    def gate_reason(self) -> str | None:
        """Return what the gate said when it first slowed this copy down, and when it first held it."""
        return "; ".join(f"{advice}: {reason}" for advice, reason in self._reasons.items()) or None

    def turn(self, size: int) -> None:
        """
        Wait until *size* bytes may be written.

        Raises:
            Stopped: If the gate says so.
        """
        self._look_up()
        now = time.monotonic()
        with self._lock:
            wait = max(self.pace.turn(now, size), self._held_back(now))
            self._turn_s = now + wait
        while (left := now + wait - time.monotonic()) > 0:
            time.sleep(min(left, ASK_EVERY_S))
            self._look_up()  # at 100 KiB/s a chunk waits for 10 s

    def _held_back(self, now: float) -> float:
        """Return how long the gate's advice lets the next chunk wait."""
        match self._advice:
            case Advice.SLOW:  # a write, and a pause as long: with two writers before, one and half the rate
                return max(0.0, self._turn_s + 2 * self._latency_s - now)
            case Advice.TRICKLE:
                return max(0.0, self._turn_s + TRICKLE_INTERVAL_S - now)
        return 0.0

    def done(self, size: int, latency_s: float) -> None:
        """Tell the pace what a write took; flush, if as much lies in the disk's cache as may."""
        with self._lock:
            now = time.monotonic()
            self._waited_s += latency_s
            self._latency_s = latency_s
            self.pace.done(now, size, latency_s - self._flushing_within(now - latency_s, now))
            self._cached += size
        flush, cache = self.flush, self.pace.cache
        if flush and cache and self._cached >= cache.batch:
            with self._flushing:  # one at a time; meanwhile the other writers go on, and wait here when it is theirs
                if self._cached >= cache.batch:
                    self._empty(flush, cache)

    def _flushing_within(self, began_s: float, ended_s: float) -> float:
        """Return how much of a write's time the last flush took: what waits behind that is not late."""
        return max(0.0, min(ended_s, self._flush_s[1]) - max(began_s, self._flush_s[0]))

    def _empty(self, flush: Callable[[], None], cache: WriteCache) -> None:
        before, started = self.flushes(), time.monotonic()
        with self._lock:
            self._cached = 0
            self._flush_s = (started, math.inf)
        flush()
        after = self.flushes()
        with self._lock:
            now = time.monotonic()
            self._flush_s = (started, now)
            self._waited_s += now - started
            counts = before is not None and before != after
            if not counts or self._flushes_seen not in (None, before):
                cache.shared(now)
            self._flushes_seen = after
            self.pace.flushed(now, now - started)

    def _look_up(self) -> None:
        """Ask the gate, and look at the other processes, if the last time is long ago."""
        now = time.monotonic()
        if now - self._asked_s >= ASK_EVERY_S:
            self._consult()
            self._watch_others(now)

    def _consult(self) -> None:
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
                self.gate_slow_downs += before is not feedback.advice
                return
            self.pauses += before is not Advice.PAUSE
            time.sleep(ASK_EVERY_S)

    def _watch_others(self, now: float) -> None:
        """Compare PSI's io ``some`` with the own waiting: what is above it, others waited."""
        if self._psi and now - self._psi[0] < PSI_EVERY_S:
            return
        stalled_s = io_stall_s()
        if stalled_s is None:
            return
        if self._psi:
            elapsed = now - self._psi[0]
            own = min(elapsed, self._waited_s - self._psi[2])
            with self._lock:
                self.pace.stalled(now, (stalled_s - self._psi[1] - own) / elapsed)
        self._psi = (now, stalled_s, self._waited_s)


def io_stall_s() -> float | None:
    """Return the seconds since boot in which some task waited for I/O; ``None`` without PSI."""
    try:
        fd = os.open("/proc/pressure/io", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        first = os.read(fd, 256).split(b"\n", 1)[0]
    except OSError:  # EOPNOTSUPP: built in and switched off
        return None
    finally:
        os.close(fd)
    return int(first.rpartition(b"total=")[2]) / 1e6
