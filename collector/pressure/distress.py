"""
How hard processes struggle for memory: judged by the last few seconds of two counters.

``allocstall`` counts the allocations that had to reclaim memory themselves; PSI's ``some total`` is the time that
tasks stalled for memory. Measured on Linux 6.18 with no swap (24 GiB, one node): beside ``cp`` allocstall rises by
about 3 a second with gaps of up to 3.8 s, in a thrash by 166 to 202; PSI grows by 4 to 6 ms/s beside ``cp``, by 75 to
90 in a thrash, and says so 0.6 to 3.3 s before the first allocstall. PSI's ``avg10`` is blind below 1 % and 4 s late.

Pure: readings are handed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from collector.model.pressure import Distress, Tick

MILD_STALLS, MILD_S = 2, 3.0
"""One rise alone is noise: the start of any program may cause it."""

SEVERE_STALLS, SEVERE_S = 60, 3.0
STALLED_MS_PER_S, STALLED_S = 30.0, 2.0
"""The kernel renews its sums every 2 s: a shorter window would see nothing, then twice as much as there was."""

CALM_S = 5.0
SLACK_S = 0.6
"""Readings come every half second at least; the one before a window's start counts as its start."""

SPACING_S = 0.25
KEPT = 32
"""Readings kept, `SPACING_S` apart at least: 8 s, more than the longest window."""


class Judgement(NamedTuple):
    """A level, and the sentence that says why; empty when calm."""

    level: Distress
    reason: str = ""


class History:
    """The last few seconds of readings. What is not known is not held against anybody: no readings are calm."""

    def __init__(self, ticks: Iterable[Tick] = ()) -> None:
        """Take up *ticks*, oldest first: those of another process of this machine will do."""
        self._ticks: deque[Tick] = deque(ticks, maxlen=KEPT)

    @property
    def ticks(self) -> tuple[Tick, ...]:
        """The readings, oldest first."""
        return tuple(self._ticks)

    def add(self, tick: Tick) -> None:
        """Take a reading; one that follows closely takes the place of the one before it."""
        if len(self._ticks) >= 2 and tick.taken_s - self._ticks[-2].taken_s < SPACING_S:
            self._ticks.pop()
        self._ticks.append(tick)

    def judge(self) -> Judgement:
        """Say how the last seconds were."""
        stalls, seconds = self._stalls(SEVERE_S)
        stalled = self._stalled_ms_per_s()
        if stalls >= SEVERE_STALLS:
            return Judgement(Distress.SEVERE, _said(stalls, seconds))
        if stalled >= STALLED_MS_PER_S:
            return Judgement(Distress.SEVERE, f"tasks stalled for memory {stalled:.0f} ms in each second")
        stalls, seconds = self._stalls(MILD_S)
        if stalls >= MILD_STALLS:
            return Judgement(Distress.MILD, _said(stalls, seconds))
        stalls, seconds = self._stalls(CALM_S)
        return Judgement(Distress.UNSETTLED, _said(stalls, seconds)) if stalls else Judgement(Distress.CALM)

    def _stalls(self, window_s: float) -> tuple[int, float]:
        """Return by how much allocstall rose, and in what time."""
        first = self._first(window_s)
        if first is None:
            return 0, 0.0
        last = self._ticks[-1]
        return last.allocstall - first.allocstall, last.taken_s - first.taken_s

    def _stalled_ms_per_s(self) -> float:
        first, last = self._first(STALLED_S), self._ticks[-1] if self._ticks else None
        if first is None or last is None or first.stalled_us is None or last.stalled_us is None:
            return 0.0
        # Over less than its window one renewal of the kernel's sums would look like a rate twice as high.
        seconds = max(last.taken_s - first.taken_s, STALLED_S)
        return (last.stalled_us - first.stalled_us) / 1000 / seconds

    def _first(self, window_s: float) -> Tick | None:
        """Return the oldest reading within the window, if there are two."""
        if not self._ticks:
            return None
        since_s = self._ticks[-1].taken_s - window_s - SLACK_S
        first = next(tick for tick in self._ticks if tick.taken_s >= since_s)
        return first if first is not self._ticks[-1] else None


def _said(stalls: int, seconds: float) -> str:
    return f"allocstall rose by {stalls} in {seconds:.1f} s: processes are in direct reclaim"
