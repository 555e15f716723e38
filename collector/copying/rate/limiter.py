"""
How fast to write: pure functions of the times that the engine measured.

O_DIRECT spares the memory; only pacing spares the disk's other users. Beside one writer that keeps a
slow disk busy, another process's fsync waits for whole chunks; with gaps it slips in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from collector.copying.rate.controller import Adaptive
from collector.copying.rate.flush_batch import WriteCache


class Pace(Protocol):
    """When the next chunk may start."""

    @property
    def slow_downs(self) -> int:
        """Return how often it backed off."""
        ...

    @property
    def cache(self) -> WriteCache | None:
        """Return how much may lie in the disk's write cache; ``None`` for as much as it takes."""
        ...

    def turn(self, now_s: float, size: int) -> float:
        """Book *size* bytes; return how many seconds from *now_s* to wait before writing them."""
        ...

    def done(self, now_s: float, size: int, latency_s: float) -> None:
        """Tell that a write of *size* bytes took *latency_s*."""
        ...

    def flushed(self, now_s: float, latency_s: float) -> None:
        """Tell that a flush of the disk's write cache took *latency_s*."""
        ...

    def stalled(self, now_s: float, share: float) -> None:
        """Tell the share of time that others waited for I/O, from PSI less the copy's own waiting."""
        ...


@dataclass(slots=True)
class Max:
    """As fast as the disk takes it."""

    slow_downs: int = 0
    cache: None = None

    def turn(self, now_s: float, size: int) -> float:  # noqa: ARG002
        """Never wait."""
        return 0.0

    def done(self, now_s: float, size: int, latency_s: float) -> None:
        """Learn nothing."""

    def flushed(self, now_s: float, latency_s: float) -> None:
        """Learn nothing."""

    def stalled(self, now_s: float, share: float) -> None:
        """Learn nothing."""


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

    @property
    def cache(self) -> WriteCache:
        """Return what the other copies to that disk know."""
        return self.yielding.cache

    def turn(self, now_s: float, size: int) -> float:
        """Wait for the end of the last chunk's share of time."""
        start = max(now_s + self.yielding.turn(now_s, size), self.next_s)
        self.next_s = start + size / self.rate
        return start - now_s

    def done(self, now_s: float, size: int, latency_s: float) -> None:
        """Pass on what the disk does."""
        self.yielding.done(now_s, size, latency_s)

    def flushed(self, now_s: float, latency_s: float) -> None:
        """Pass on what the disk does."""
        self.yielding.flushed(now_s, latency_s)

    def stalled(self, now_s: float, share: float) -> None:
        """Pass on that others wait."""
        self.yielding.stalled(now_s, share)
