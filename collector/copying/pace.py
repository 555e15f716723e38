"""
How fast to write: pure functions of the times that the engine measured.

O_DIRECT spares the memory; only pacing spares the disk's other users. Beside one writer that keeps a
slow disk busy, another process's fsync waits for whole chunks; with gaps it slips in between.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

MIB = 1 << 20

PATIENCE_S = 0.002
"""A disk that writes a MiB faster than this is never held back: nobody notices waiting for it."""

BUSY_SHARE = 0.7
"""Share of a slower disk's time that a copy takes."""

BUSY_LIMIT = 0.8
"""Share above which it is corrected; the space between the two keeps the rate from flickering."""

BACK_OFF = 0.7
DENT = 0.9
"""What a bad moment leaves of a rate that is well below the disk's speed: it says little about the disk."""

LASTING_S = 1.0
"""Time after which a bad moment has become the disk's new speed."""

LOSS = 0.5
"""Share of its known speed that a disk is left with at least: a host that stands still for a second says nothing."""

NEAR = 0.95
"""Share of the disk's speed above which a rate has met it."""

SLOWED = 3.0
"""Multiple of the baseline latency that means that somebody else needs the disk, or that its limit is met."""

CREEP = 1.005
"""Growth of the baseline per window: it follows a disk that is slower for good, not a rate that nears a throttle."""

WINDOW_S = 0.1
WINDOW_CHUNKS = 4
RECOVERY_S = 20.0
RECOVERY_LIMIT_S = 80.0
"""Time in which a cut is made good; doubled by each cut that follows, so that the limit is met less often."""

TRUST_S = 1.0
"""Time for which a disk that is held back must look fast before it is let go; fourfold each time that it was wrong."""

FORGOTTEN = 10
"""Multiple of that time after which a slow disk is a new finding, and no longer the last one's confirmation."""

YIELD_EVERY_S = 30.0
IDLE_S = 1.0
"""Writes so far apart are not of one window."""

PROBE_PER_S = 2.0
"""Beyond what the disk was last seen to do, the rate grows by this factor: it may have become faster."""

USED = 2.0
"""A rate above so many times what was written shows nothing of the disk, and does not grow further."""

LEAST_RATE = 4 * MIB
STALLED_SHARE = 0.2
"""Share of time that others, not the copy, waited for I/O, above which the copy backs off."""


class Pace(Protocol):
    """When the next chunk may start."""

    @property
    def slow_downs(self) -> int:
        """Return how often it backed off."""
        ...

    def turn(self, now_s: float, size: int) -> float:
        """Book *size* bytes; return how many seconds from *now_s* to wait before writing them."""
        ...

    def done(self, now_s: float, size: int, latency_s: float) -> None:
        """Tell that a write of *size* bytes took *latency_s*."""
        ...

    def stalled(self, now_s: float, share: float) -> None:
        """Tell the share of time that others waited for I/O, from PSI less the copy's own waiting."""
        ...


@dataclass(slots=True)
class Max:
    """As fast as the disk takes it."""

    slow_downs: int = 0

    def turn(self, now_s: float, size: int) -> float:  # noqa: ARG002
        """Never wait."""
        return 0.0

    def done(self, now_s: float, size: int, latency_s: float) -> None:
        """Learn nothing."""

    def stalled(self, now_s: float, share: float) -> None:
        """Learn nothing."""


@dataclass(slots=True)
class Window:
    """What was written since *start_s*; *dented* once it has cost the rate something."""

    start_s: float
    chunks: int = 0
    size: int = 0
    waited_s: float = 0.0
    dented: bool = False


@dataclass(slots=True)
class Adaptive:
    """
    Full speed on a disk that is fast enough; on a slower one, its speed less room for others.

    A window of writes tells the latency of a MiB and the share of time that the disk was kept busy.
    Two windows in a row that are slower than `PATIENCE_S` and busier than `BUSY_LIMIT` set the rate to
    `BUSY_SHARE` of what the disk delivered; one alone is a hiccup. A rate that was well below the disk's
    speed is only dented, unless it lasts. Two that are slower than `SLOWED` times the baseline have met a
    throttle if all was written that the rate asks for; else they, and others' waiting, make it back off once
    in `YIELD_EVERY_S`. It recovers linearly within `RECOVERY_S`, and then
    looks for more. A disk that was slow for a moment only is let go as soon as it was fast for `TRUST_S`.
    """

    rate: float | None = None
    capacity: float = 0.0
    baseline_s: float | None = None
    slow_downs: int = 0
    _next_s: float = 0.0
    _grown_s: float = 0.0
    _recovery_s: float = RECOVERY_S / 2
    _yielded_s: float = -YIELD_EVERY_S
    _judged_s: float = 0.0
    _last_s: float = 0.0
    _trust_s: float = TRUST_S
    _fast_s: float = 0.0
    _freed_s: float = float("-inf")
    _delivered: float = 0.0
    _bad: Window | None = field(default=None)
    _window: Window | None = field(default=None)

    def turn(self, now_s: float, size: int) -> float:
        """Wait for the end of the last chunk's share of time; not at all while no rate is set."""
        if self.rate is None:
            return 0.0
        self._grow(now_s)
        start = max(now_s, self._next_s)
        self._next_s = start + size / self.rate
        return start - now_s

    def done(self, now_s: float, size: int, latency_s: float) -> None:
        """Count a write; judge the window once it is full."""
        if now_s - latency_s - self._last_s > IDLE_S:
            self._window = self._bad = None
        window = self._window
        if window is None:
            window = self._window = Window(max(now_s - latency_s, self._judged_s))
        self._last_s = now_s
        window.chunks += 1
        window.size += size
        window.waited_s += min(latency_s, now_s - window.start_s)
        if window.chunks >= WINDOW_CHUNKS and now_s - window.start_s >= WINDOW_S:
            self._window, self._judged_s = None, now_s
            self._judge(now_s, window)

    def stalled(self, now_s: float, share: float) -> None:
        """Yield while others wait. PSI does not tell disks apart: only a copy to a slow one heeds it."""
        if share > STALLED_SHARE:
            self._yield(now_s)

    def _judge(self, now_s: float, window: Window) -> None:
        elapsed_s = now_s - window.start_s
        self._delivered = window.size / elapsed_s
        busy = window.waited_s / elapsed_s
        # Of writes side by side each waits for the others, too. A small write costs as much as a large
        # one: a disk is not slow for seeking between pieces.
        latency_s = window.waited_s / max(1.0, busy) / max(window.chunks, window.size / MIB)
        usual_s = self.baseline_s if self.baseline_s is not None else latency_s
        self.baseline_s = min(latency_s, usual_s * CREEP)
        bad, self._bad = self._bad, None
        slowed = latency_s > SLOWED * usual_s
        self._trust(elapsed_s if latency_s <= PATIENCE_S else 0.0, now_s)
        if latency_s <= PATIENCE_S or not (slowed or busy > BUSY_LIMIT):
            return
        if bad is None:
            self._bad = window
        elif busy > BUSY_LIMIT:
            bad.size += window.size
            self._slow(bad, now_s)
        elif self.rate is not None and self._delivered >= NEAR * self.rate:
            # All that is asked for is written, but late: a throttle's limit. If it stays late, the disk is like that.
            self._meet(self._delivered, now_s)
            self.baseline_s = None
        else:
            self._yield(now_s)

    def _slow(self, bad: Window, now_s: float) -> None:
        """Draw the conclusion from windows in a row that were slow and busy, *bad* in all."""
        lasting = now_s - bad.start_s >= LASTING_S
        delivered = bad.size / (now_s - bad.start_s)
        if self.rate is None or self.rate >= NEAR * self.capacity:
            self._meet(delivered, now_s)
        elif lasting:
            self.capacity = max(delivered, self.capacity * LOSS)
            self._recovery_s = RECOVERY_S
            self._cut(self.capacity * BUSY_SHARE, now_s)
        else:
            self._bad = bad
            if not bad.dented:
                bad.dented = True
                self._cut(self.rate * DENT, now_s)

    def _meet(self, capacity: float, now_s: float) -> None:
        """Take what the disk delivered for all that it can."""
        self.capacity = capacity
        self._recovery_s = min(RECOVERY_LIMIT_S, self._recovery_s * 2)
        self._cut(self.capacity * BUSY_SHARE, now_s)

    def _trust(self, fast_s: float, now_s: float) -> None:
        """Let a disk go that was fast for long enough, *fast_s* more of it; time between copies shows nothing."""
        self._fast_s = self._fast_s + fast_s if fast_s else 0.0
        if self.rate is not None and self._fast_s >= self._trust_s:
            self.rate, self._freed_s = None, now_s

    def _yield(self, now_s: float) -> None:
        """Back off for others, seldom: if they go on waiting, it is not for this copy."""
        if self.rate is not None and now_s - self._yielded_s > YIELD_EVERY_S:
            self._yielded_s = now_s
            self._cut(self.rate * BACK_OFF, now_s)

    def _cut(self, rate: float, now_s: float) -> None:
        if self.rate is None:
            wrong = now_s - self._freed_s <= FORGOTTEN * self._trust_s
            self._trust_s = min(RECOVERY_LIMIT_S, self._trust_s * 4) if wrong else TRUST_S
        self.rate = max(rate, LEAST_RATE)
        self.slow_downs += 1
        self._grown_s = now_s
        self._fast_s = 0.0

    def _grow(self, now_s: float) -> None:
        # Time in which nothing is written shows nothing: it must not end in a burst.
        elapsed_s = min(max(0.0, now_s - self._grown_s), IDLE_S)
        self._grown_s = now_s
        if self.rate is None:
            return
        if self.rate < self.capacity:
            self.rate += self.capacity * (1 - BUSY_SHARE) * elapsed_s / self._recovery_s
        elif self.rate < USED * self._delivered:
            self.rate *= PROBE_PER_S**elapsed_s
            self.capacity = self.rate


@dataclass(slots=True)
class Bounded:
    """At most *rate* bytes per second, and less where *yielding* says so; unused time is not saved up for a burst."""

    rate: float
    yielding: Adaptive
    next_s: float = 0.0

    @property
    def slow_downs(self) -> int:
        """Return how often others needed the disk; the bound itself slows nothing down."""
        return self.yielding.slow_downs

    def turn(self, now_s: float, size: int) -> float:
        """Wait for the end of the last chunk's share of time."""
        start = max(now_s + self.yielding.turn(now_s, size), self.next_s)
        self.next_s = start + size / self.rate
        return start - now_s

    def done(self, now_s: float, size: int, latency_s: float) -> None:
        """Pass on what the disk does."""
        self.yielding.done(now_s, size, latency_s)

    def stalled(self, now_s: float, share: float) -> None:
        """Pass on that others wait."""
        self.yielding.stalled(now_s, share)
