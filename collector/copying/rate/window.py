"""What the writes of a tenth of a second tell about a disk: pure arithmetic over the times that the engine measured."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20

LENGTH_S = 0.09
CHUNKS = 4
"""Shortest interval that is judged. A throttle of the block layer holds what exceeds its budget until the next tenth
of a second: an interval of a little less ends with the write that was held."""

BLOCKED_S = 0.02
"""A late write of so long ends the interval at full speed: the 10 MiB that the next slice of a throttle of 100 MiB/s
passes at once would hold everybody for up to 0.1 s more."""

PATIENCE_S = 0.002
"""A disk that writes a MiB faster than this is never called busy: nobody notices waiting for it."""

BUSY_LIMIT = 0.95
"""Share of a slower disk's time above which it is kept busy."""

HELD_UP = 0.1
UNUSUAL = 3.0
"""A write is late if it takes that share of the interval, and so many times as long as the fastest one of its size."""


@dataclass(slots=True)
class Interval:
    """What was written from *start_s* to *end_s*."""

    start_s: float
    end_s: float = 0.0
    chunks: int = 0
    size: int = 0
    waited_s: float = 0.0
    noticed_s: float = 0.0
    worst_s: float = 0.0
    largest: int = 0
    least_s: float = 0.0

    def add(self, now_s: float, size: int, latency_s: float) -> None:
        """Count a write that ended just now. What it waited before the start was the last interval's."""
        inside_s = min(latency_s, now_s - self.start_s)
        self.end_s = now_s
        self.chunks += 1
        self.size += size
        self.waited_s += inside_s
        self.noticed_s += inside_s
        self.worst_s = max(self.worst_s, inside_s)
        if size > self.largest or (size == self.largest and latency_s < self.least_s):
            self.largest, self.least_s = size, latency_s

    def wait(self, now_s: float, latency_s: float, drained_s: float) -> None:
        """
        Count a flush that ended just now, and drained what was written for *drained_s*.

        However long it takes, no write was late for it. The rest of its time says nothing of the disk's speed. Of what
        it drained one half counts: others wait for one batch, and not for a chunk of each writer.
        """
        inside_s = min(latency_s, now_s - self.start_s)
        self.end_s = now_s
        self.waited_s += inside_s
        self.noticed_s += min(inside_s, drained_s / 2)

    def join(self, later: Interval) -> None:
        """Add an interval that follows on this one."""
        self.end_s = later.end_s
        self.size += later.size
        self.worst_s = later.worst_s

    @property
    def full(self) -> bool:
        """Tell whether it is long enough to be judged."""
        return self.chunks >= CHUNKS and self.elapsed_s >= LENGTH_S

    @property
    def blocked(self) -> bool:
        """Tell whether it must not become longer: a write was held, and the next one will be held for longer."""
        return self.chunks >= CHUNKS and self.worst_s >= BLOCKED_S and self.late

    @property
    def elapsed_s(self) -> float:
        """Return its length."""
        return self.end_s - self.start_s

    @property
    def speed(self) -> float:
        """Return the bytes per second that were written."""
        return self.size / self.elapsed_s

    @property
    def slow(self) -> bool:
        """
        Tell whether the disk takes long for a MiB.

        Of writes side by side each waits for the others, too. A small write costs as much as a large one: a
        disk is not slow for seeking between pieces.
        """
        side_by_side = max(1.0, self.waited_s / self.elapsed_s)
        return self.noticed_s / side_by_side / max(self.chunks, self.size / MIB) > PATIENCE_S

    @property
    def busy(self) -> bool:
        """Tell whether a slow disk was kept busy."""
        return self.slow and self.waited_s > BUSY_LIMIT * self.elapsed_s

    @property
    def late(self) -> bool:
        """Tell whether a write waited for long, and not because all of them do."""
        return self.worst_s > max(HELD_UP * self.elapsed_s, UNUSUAL * self.least_s)
