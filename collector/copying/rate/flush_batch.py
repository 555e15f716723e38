"""How much may lie in a disk's own write cache: pure arithmetic over what flushing it took."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from collector.copying.rate.window import MIB

LEAST = MIB
MOST = 64 * MIB
FACTOR = 2

SHARED_S, ALONE_S = 0.003, 0.03
"""Longest that a flush may take for what it drains: whoever else syncs meanwhile waits as long, and hardly notices.
Where nobody does, batches of a MiB or two would take half of a disk's speed for nothing."""

SHARED_FOR_S = 5.0
"""After somebody else's flush he is expected again for so long."""

SAMPLES = 3
"""Flushes of one size before it is judged by the middle one: a busy machine delays one, another one finds the cache
emptied by somebody else."""

REST, LONGEST_REST = 4, 64
"""Judgements before a size is tried again that was too large; twice as many each time that it still is."""


@dataclass(slots=True)
class WriteCache:
    """
    When to tell a disk to flush, as a database beside the copy would have to.

    A flush takes a time of its own, and for each byte that lies in the cache: the two least batches show both. A batch
    grows until what it drains is noticed, and more than the flush itself. A disk that keeps nothing back gets a flush
    every 64 MiB; one that is a file of its host, written through the host's page cache, every MiB or two while others
    flush it, too, and every 16 or 32 while nobody does.

    Attributes:
        batch: Bytes that may be written before the next flush.
        limit_s: Longest that a flush may take for what it drains.
    """

    batch: int = LEAST
    limit_s: float = ALONE_S
    _shared_s: float = -math.inf
    _own_s: float = math.inf
    _least_s: float = math.inf
    _rest: int = 0
    _next_rest: int = REST
    _taken_s: list[float] = field(default_factory=list)

    def shared(self, now_s: float) -> None:
        """Tell that somebody else flushed the disk just now, or may have."""
        self._shared_s = now_s
        self._keep_to(SHARED_S)

    def flushed(self, now_s: float, latency_s: float) -> float:
        """Learn from a flush of about `batch` bytes; return the seconds that it drained them, as far as is known."""
        if now_s - self._shared_s >= SHARED_FOR_S:
            self._keep_to(ALONE_S)
        drained_s = max(0.0, latency_s - self._own_s)
        self._own_s = min(self._own_s, latency_s)  # a disk that stood still for a moment was measured too slow
        self._taken_s.append(latency_s)
        if len(self._taken_s) == SAMPLES:
            taken_s = sorted(self._taken_s)[SAMPLES // 2]
            self._taken_s.clear()
            self._judge(taken_s)
        return drained_s

    def _keep_to(self, limit_s: float) -> None:
        """Begin anew, if *limit_s* is another one."""
        if limit_s != self.limit_s:
            self.limit_s, self.batch, self._rest, self._next_rest = limit_s, LEAST, 0, REST
            self._taken_s.clear()

    def _judge(self, taken_s: float) -> None:
        if self.batch == LEAST:
            self._least_s = taken_s
        elif self.batch == FACTOR * LEAST and not self._rest:
            self._own_s = max(0.0, (FACTOR * self._least_s - taken_s) / (FACTOR - 1))
        drained_s = taken_s - self._own_s
        if self.batch > LEAST and drained_s > max(self.limit_s, self._own_s):
            self._shrink(drained_s / self.batch)
        elif self._rest:
            self._rest -= 1
            if not self._rest:
                self.batch = LEAST  # begin anew: the disk's own time may have been another's
        elif self.batch < MOST:
            self.batch *= FACTOR

    def _shrink(self, per_byte_s: float) -> None:
        while self.batch > LEAST and self.batch * per_byte_s > self.limit_s:
            self.batch //= FACTOR
        self._rest, self._next_rest = self._next_rest, min(LONGEST_REST, 2 * self._next_rest)
