"""What a tenth of a second of writing shows about a disk: pure arithmetic on the latencies that the engine measured."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20

LENGTH_S = 0.09
MIN_WRITES = 4
"""Shortest window that is judged. The block layer's throttle holds back what exceeds its budget until the next tenth
of a second: a window slightly shorter than that ends with the write that was held back."""

BLOCKED_S = 0.02
"""At full speed a late write of this length ends the window early: a throttle of 100 MiB/s lets the first 10 MiB of its
next slice through immediately, which would block everybody for up to another 0.1 s."""

SLOW_S = 0.002
"""A disk that writes a MiB faster than this is never called busy: nobody notices waiting for it."""

BUSY_SHARE = 0.95
"""A slow disk is busy if writes were pending for more than this share of the window."""

LATE_SHARE = 0.1
LATE_FACTOR = 3.0
"""A write is late if it took this share of the window and this many times as long as the fastest one of its size."""


@dataclass(slots=True)
class Window:
    """The writes from *start_s* to *end_s*."""

    start_s: float
    end_s: float = 0.0
    writes: int = 0
    size: int = 0
    pending_s: float = 0.0
    noticed_s: float = 0.0
    worst_s: float = 0.0
    largest: int = 0
    fastest_s: float = 0.0

    def add(self, now_s: float, size: int, latency_s: float) -> None:
        """Count a write that ended just now; the part of its latency before the window belongs to the previous one."""
        inside_s = min(latency_s, now_s - self.start_s)
        self.end_s = now_s
        self.writes += 1
        self.size += size
        self.pending_s += inside_s
        self.noticed_s += inside_s
        self.worst_s = max(self.worst_s, inside_s)
        if size > self.largest or (size == self.largest and latency_s < self.fastest_s):
            self.largest, self.fastest_s = size, latency_s

    def add_flush(self, now_s: float, latency_s: float, drain_s: float) -> None:
        """
        Count a flush that ended just now and spent *drain_s* on draining the cache.

        A flush never makes a write late, and the fixed part of its latency says nothing about the disk's speed. Half of
        the drain counts as noticed: others wait for one batch, not for one chunk per writer.
        """
        inside_s = min(latency_s, now_s - self.start_s)
        self.end_s = now_s
        self.pending_s += inside_s
        self.noticed_s += min(inside_s, drain_s / 2)

    def extend(self, later: Window) -> None:
        """Append the window that follows this one."""
        self.end_s = later.end_s
        self.size += later.size
        self.worst_s = later.worst_s

    @property
    def full(self) -> bool:
        return self.writes >= MIN_WRITES and self.elapsed_s >= LENGTH_S

    @property
    def blocked(self) -> bool:
        """Return whether the window must end early: a write was held back, and the next would be held back longer."""
        return self.writes >= MIN_WRITES and self.worst_s >= BLOCKED_S and self.late

    @property
    def elapsed_s(self) -> float:
        return self.end_s - self.start_s

    @property
    def speed(self) -> float:
        """Return the bytes written per second."""
        return self.size / self.elapsed_s

    @property
    def slow(self) -> bool:
        """
        Return whether the disk takes long for a MiB.

        Concurrent writes also wait for one another. A small write costs as much as a large one: a disk that seeks
        between small writes is not slow.
        """
        concurrent = max(1.0, self.pending_s / self.elapsed_s)
        return self.noticed_s / concurrent / max(self.writes, self.size / MIB) > SLOW_S

    @property
    def busy(self) -> bool:
        return self.slow and self.pending_s > BUSY_SHARE * self.elapsed_s

    @property
    def late(self) -> bool:
        """Return whether one write took long although not all of them do."""
        return self.worst_s > max(LATE_SHARE * self.elapsed_s, LATE_FACTOR * self.fastest_s)
