"""Disks and their users in simulated time."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from collector.copying.rate.controller import Controller
from collector.copying.rate.limiter import Limiter
from collector.copying.rate.window import MIB

Disk = Callable[[float, int], float]
"""Takes the start time and the size of a write; returns when it is done. Time never goes back."""

PROBE_BYTES = 16 << 10  # 4 KiB and what the journal adds


@dataclass
class Simulation:
    """
    Writers that keep to a limiter's rate, and another process that writes a little every 20 ms.

    Args:
        probing: Whether there is such a process; it starts a second before time 0. *waited* holds its
            latencies from the first chunk on.
    """

    limiter: Limiter | Controller
    disk: Disk
    writers: int = 2
    probing: bool = False
    waited: list[float] = field(default_factory=list)

    def run(self, seconds: float, *, since: float = 0.0) -> list[tuple[float, float]]:
        """Write chunks of 1 MiB for *seconds* from *since* on; return start and end of each."""
        written: list[tuple[float, float]] = []
        turn = since
        numbers = itertools.count()
        events = [(since, next(numbers), "free", 0.0)] * self.writers
        if self.probing:
            events.append((-1.0, next(numbers), "probe", 0.0))
            heapq.heapify(events)

        def later(at: float, what: str, start: float = 0.0) -> None:
            heapq.heappush(events, (at, next(numbers), what, start))

        while events:
            now, _, what, start = heapq.heappop(events)
            match what:
                case "free" if now < turn:
                    later(turn, "free")
                case "free" if now <= since + seconds:
                    turn = now + self.limiter.reserve(now, MIB)
                    later(turn, "write")
                case "write":
                    later(self.disk(now, MIB), "done", now)
                case "done":
                    self.limiter.record(now, MIB, now - start)
                    written.append((start, now))
                    later(now, "free")
                case "probe" if now <= since + seconds:
                    waited = self.disk(now, PROBE_BYTES) - now
                    if now >= since:
                        self.waited.append(waited)
                    later(now + 0.02, "probe")
        return written


def drive(
    limiter: Limiter | Controller, disk: Disk, *, seconds: float, writers: int = 2, since: float = 0.0
) -> list[tuple[float, float]]:
    """Let *writers* write for *seconds* without another process; return start and end of each chunk."""
    return Simulation(limiter, disk, writers).run(seconds, since=since)


def rate_of(written: list[tuple[float, float]], since: float = 0.0) -> float:
    span = [(start, end) for start, end in written if start >= since]
    return len(span) * MIB / (span[-1][1] - span[0][0])


def steady(rate: float, *, overhead_s: float = 0.0001) -> Disk:
    """A disk that serves one write after the other."""
    free = 0.0

    def serve(now: float, size: int) -> float:
        nonlocal free
        free = max(free, now) + size / rate
        return free + overhead_s

    return serve


def throttled(rate: float, *, slice_s: float = 0.1) -> Disk:
    """A fast disk behind a throttle: unlimited within the budget of a time slice, then held until the next one."""
    spent: dict[int, float] = {}
    fast = steady(3000 * MIB)

    def serve(now: float, size: int) -> float:
        at = int(now / slice_s)
        while spent.get(at, 0.0) + size > rate * slice_s:
            at += 1
        spent[at] = spent.get(at, 0.0) + size
        return fast(max(now, at * slice_s), size)

    return serve


def saving(rate: float, *, saved: int) -> Disk:
    """A fast disk behind a token bucket: unused budget is saved up to a bound."""
    budget, last = float(saved), 0.0
    fast = steady(3000 * MIB)

    def serve(now: float, size: int) -> float:
        nonlocal budget, last
        at = max(now, last)
        budget = min(saved, budget + (at - last) * rate) - size
        last = at - min(0.0, budget) / rate
        budget = max(0.0, budget)
        return fast(max(now, last), size)

    return serve


class BlockThrottle:
    """
    The kernel's throttle in front of a fast disk; first come, first served.

    Bytes are charged to whole slices of 0.1 s; a write that exceeds them waits for the end of the slice and for its own
    length. All past slices but the last two are forgotten, so that much is saved up. Source:
    block/blk-throttle.c, ``tg_within_bps_limit`` and ``throtl_trim_slice`` (Linux 6.18).
    """

    SLICE_S = 0.1
    JIFFY_S = 0.004

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._fast = steady(3000 * MIB)
        self._began = self._last = -math.inf
        self._spent = 0.0

    def __call__(self, now: float, size: int) -> float:
        if self._last < now - 2 * self.SLICE_S:
            self._began, self._spent = now, 0.0
        at = max(now, self._last)
        while (wait := self._wait(at, size)) > 0:
            at += wait
        self._spent += size
        self._last = at
        return self._fast(at, size)

    def _wait(self, at: float, size: int) -> float:
        elapsed = at - self._began
        if elapsed >= 2 * self.SLICE_S:
            past = (math.floor(elapsed / self.SLICE_S) - 1) * self.SLICE_S
            self._spent = max(0.0, self._spent - self.rate * past)
            self._began += past
            elapsed -= past
        slices = max(1, math.ceil(elapsed / self.SLICE_S - 1e-9)) * self.SLICE_S
        excess = self._spent + size - self.rate * slices
        return max(self.JIFFY_S, excess / self.rate) + slices - elapsed if excess > 0 else 0.0
