"""
When the next chunk may be written: pure arithmetic on the latencies that the engine measured.

O_DIRECT protects the memory; only a limited rate protects the disk's other users. Beside a writer that keeps a
slow disk busy, another process's fsync waits for whole chunks; with gaps between them it slips in.
"""

from __future__ import annotations

from dataclasses import dataclass

from collector.copying.rate.controller import Controller
from collector.copying.rate.flush_batch import FlushBatch


@dataclass(slots=True)
class Limiter:
    """
    At most *bound* bytes per second, and less where *controller* says so; without either, full speed.

    Unused time is not saved up for a burst.
    """

    bound: float | None = None
    controller: Controller | None = None
    _next_s: float = 0.0

    @property
    def slow_downs(self) -> int:
        """Return how often the controller cut its rate; the bound itself slows nothing down."""
        return self.controller.slow_downs if self.controller else 0

    @property
    def flush_batch(self) -> FlushBatch | None:
        """Return how much may lie in the disk's write cache; ``None`` for as much as it takes."""
        return self.controller.flush_batch if self.controller else None

    def reserve(self, now_s: float, size: int) -> float:
        """Reserve the time for *size* bytes; return how many seconds from *now_s* to wait before writing them."""
        start_s = now_s + (self.controller.reserve(now_s, size) if self.controller else 0.0)
        if self.bound is not None:
            start_s = max(start_s, self._next_s)
            self._next_s = start_s + size / self.bound
        return start_s - now_s

    def record(self, now_s: float, size: int, latency_s: float) -> None:
        """Pass on that a write of *size* bytes took *latency_s*."""
        if self.controller:
            self.controller.record(now_s, size, latency_s)

    def record_flush(self, now_s: float, latency_s: float) -> None:
        """Pass on that a flush of the disk's write cache took *latency_s*."""
        if self.controller:
            self.controller.record_flush(now_s, latency_s)
