"""How many bytes to write between two flushes of a disk's write cache: pure arithmetic on flush latencies."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from collector.copying.rate.window import MIB

SMALLEST = MIB
LARGEST = 64 * MIB
FACTOR = 2

SHARED_S, ALONE_S = 0.003, 0.03
"""Longest time that a flush may spend draining the cache. Whoever else syncs meanwhile waits as long and hardly
notices. If nobody does, batches of one or two MiB would halve the disk's speed for nothing."""

SHARED_FOR_S = 5.0
"""For this long after somebody else's flush, another one is expected."""

SAMPLES = 3
"""A batch size is judged by the median of this many flushes: a busy machine delays one of them, and another one finds
the cache already drained by somebody else."""

FIRST_REST, LONGEST_REST = 4, 64
"""Judgements before a size that was too large is tried again; doubled each time that it is still too large."""


@dataclass(slots=True)
class FlushBatch:
    """
    Decides when the copy flushes the disk's write cache, so that other processes' syncs find little in it.

    A flush has a fixed cost and a cost per byte in the cache: the two smallest batches reveal both. A batch doubles
    until draining it takes noticeably long and longer than the fixed cost. A disk without a volatile cache is flushed
    every 64 MiB. A disk that is a file in the host's page cache is flushed every one or two MiB while others flush it
    too, and every 16 or 32 MiB otherwise.

    Attributes:
        size: Bytes to write before the next flush.
        limit_s: Longest time that a flush may spend draining the cache.
    """

    size: int = SMALLEST
    limit_s: float = ALONE_S
    _shared_s: float = -math.inf
    _fixed_s: float = math.inf
    _smallest_s: float = math.inf
    _rest: int = 0
    _next_rest: int = FIRST_REST
    _samples: list[float] = field(default_factory=list)

    def mark_shared(self, now_s: float) -> None:
        """Note that somebody else flushed the disk just now, or may have."""
        self._shared_s = now_s
        self._set_limit(SHARED_S)

    def record(self, now_s: float, latency_s: float) -> float:
        """Learn from a flush of about `size` bytes; return how many seconds of it drained them, as far as is known."""
        if now_s - self._shared_s >= SHARED_FOR_S:
            self._set_limit(ALONE_S)
        drain_s = max(0.0, latency_s - self._fixed_s)
        self._fixed_s = min(self._fixed_s, latency_s)  # a disk that stood still for a moment was measured too slow
        self._samples.append(latency_s)
        if len(self._samples) == SAMPLES:
            median_s = sorted(self._samples)[SAMPLES // 2]
            self._samples.clear()
            self._judge(median_s)
        return drain_s

    def _set_limit(self, limit_s: float) -> None:
        if limit_s != self.limit_s:
            self.limit_s, self.size, self._rest, self._next_rest = limit_s, SMALLEST, 0, FIRST_REST
            self._samples.clear()

    def _judge(self, median_s: float) -> None:
        if self.size == SMALLEST:
            self._smallest_s = median_s
        elif self.size == FACTOR * SMALLEST and not self._rest:
            self._fixed_s = max(0.0, (FACTOR * self._smallest_s - median_s) / (FACTOR - 1))
        drain_s = median_s - self._fixed_s
        if self.size > SMALLEST and drain_s > max(self.limit_s, self._fixed_s):
            self._shrink(drain_s / self.size)
        elif self._rest:
            self._rest -= 1
            if not self._rest:
                self.size = SMALLEST  # measure again: the fixed cost may have been somebody else's
        elif self.size < LARGEST:
            self.size *= FACTOR

    def _shrink(self, per_byte_s: float) -> None:
        while self.size > SMALLEST and self.size * per_byte_s > self.limit_s:
            self.size //= FACTOR
        self._rest, self._next_rest = self._next_rest, min(LONGEST_REST, 2 * self._next_rest)
