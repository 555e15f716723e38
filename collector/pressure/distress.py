"""
How hard processes struggle for memory, judged by two counters over the last few seconds.

``allocstall`` counts allocations that had to reclaim memory themselves; PSI's ``some total`` is the time that tasks
stalled for memory. Measured on Linux 6.18 without swap (24 GiB, one node): during ``cp`` allocstall rises by about 3
a second with gaps of up to 3.8 s, during thrashing by 166 to 202; PSI grows by 4 to 6 ms/s during ``cp``, by 75 to 90
during thrashing, 0.6 to 3.3 s before the first allocstall. PSI's ``avg10`` misses less than 1 % and is 4 s late.

Pure: readings are handed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from collector.model.pressure import Distress, Tick

MILD_STALLS, MILD_S = 2, 3.0
"""A single rise is noise: starting any program may cause it."""

SEVERE_STALLS, SEVERE_S = 60, 3.0
STALLED_MS_PER_S, STALLED_S = 30.0, 2.0
"""The kernel updates its sums every 2 s: a shorter window would see nothing, then twice the real rate."""

CALM_S = 5.0
SLACK_S = 0.6
"""Readings are at most half a second apart; the last one before a window counts as its start."""

SPACING_S = 0.25
KEPT = 32
"""Readings kept, at least `SPACING_S` apart: 8 s, more than the longest window."""


class Judgement(NamedTuple):
    """A level and the reason for it; empty when calm."""

    level: Distress
    reason: str = ""


class History:
    """The last few seconds of readings, oldest first, which may be another process's; without readings it is calm."""

    def __init__(self, ticks: Iterable[Tick] = ()) -> None:
        self._ticks: deque[Tick] = deque(ticks, maxlen=KEPT)

    @property
    def ticks(self) -> tuple[Tick, ...]:
        return tuple(self._ticks)

    def add(self, tick: Tick) -> None:
        """Add a reading; it replaces the last one if that is less than `SPACING_S` after the one before."""
        if len(self._ticks) >= 2 and tick.taken_s - self._ticks[-2].taken_s < SPACING_S:
            self._ticks.pop()
        self._ticks.append(tick)

    def judge(self) -> Judgement:
        """Return how distressed the last seconds were."""
        stalls, seconds = self._stalls(SEVERE_S)
        stalled = self._stalled_ms_per_s()
        if stalls >= SEVERE_STALLS:
            return Judgement(Distress.SEVERE, _stall_reason(stalls, seconds))
        if stalled >= STALLED_MS_PER_S:
            return Judgement(Distress.SEVERE, f"tasks stalled for memory {stalled:.0f} ms in each second")
        stalls, seconds = self._stalls(MILD_S)
        if stalls >= MILD_STALLS:
            return Judgement(Distress.MILD, _stall_reason(stalls, seconds))
        stalls, seconds = self._stalls(CALM_S)
        return Judgement(Distress.UNSETTLED, _stall_reason(stalls, seconds)) if stalls else Judgement(Distress.CALM)

    def _stalls(self, window_s: float) -> tuple[int, float]:
        """Return by how much allocstall rose, and in how many seconds."""
        first = self._first(window_s)
        if first is None:
            return 0, 0.0
        last = self._ticks[-1]
        return last.allocstall - first.allocstall, last.taken_s - first.taken_s

    def _stalled_ms_per_s(self) -> float:
        first, last = self._first(STALLED_S), self._ticks[-1] if self._ticks else None
        if first is None or last is None or first.stalled_us is None or last.stalled_us is None:
            return 0.0
        # Over less than its window, one update of the kernel's sums would look like twice the rate.
        seconds = max(last.taken_s - first.taken_s, STALLED_S)
        return (last.stalled_us - first.stalled_us) / 1000 / seconds

    def _first(self, window_s: float) -> Tick | None:
        """Return the oldest reading within the window, if there are two."""
        if not self._ticks:
            return None
        since_s = self._ticks[-1].taken_s - window_s - SLACK_S
        first = next(tick for tick in self._ticks if tick.taken_s >= since_s)
        return first if first is not self._ticks[-1] else None


def _stall_reason(stalls: int, seconds: float) -> str:
    return f"allocstall rose by {stalls} in {seconds:.1f} s: processes are in direct reclaim"
