"""The memory that a process really has: of a large, sparsely used heap a fraction of what the kernel sends."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from collector.collectors.core.composed import PIECE_BYTES
from collector.host.core_segments import SegmentTable
from collector.host.process_memory import ProcessMemory

MAX_RUNS = 30_000
"""Each takes two entries of the segment table, which has at most 65,534."""

GAP_BYTES = 64 << 10
"""Runs this close become one: a gap of zeros is cheaper than two entries."""


MAX_SCANNED_BYTES = 2 << 40
"""The page map of 1 TiB takes 0.5 s to read, present or not."""


class PresentPages:
    """The pages that are there, of all that the kernel would dump; *size_bytes* with the gaps that are filled."""

    def __init__(self, memory: ProcessMemory, segments: SegmentTable) -> None:
        self._memory = memory
        self._runs, gap = array("Q"), GAP_BYTES
        for segment in segments:
            for low, high in memory.present(segment.start, segment.start + segment.file_bytes):
                _append(self._runs, low, high, gap)
            while len(self._runs) > 2 * MAX_RUNS:
                gap *= 4
                self._runs = _merged(self._runs, gap)

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield the ranges by address; they may reach across what is not mapped."""
        return zip(self._runs[::2], self._runs[1::2], strict=True)

    @property
    def size_bytes(self) -> int:
        return sum(high - low for low, high in self.runs())

    def content(self, low: int, high: int) -> Iterator[bytearray]:
        for at in range(low, high, PIECE_BYTES):
            yield self._memory.read(at, min(high, at + PIECE_BYTES))


def _append(runs: array[int], low: int, high: int, gap: int) -> None:
    if runs and low - runs[-1] <= gap:
        runs[-1] = high
    else:
        runs.extend((low, high))


def _merged(runs: array[int], gap: int) -> array[int]:
    merged = array("Q")
    for low, high in zip(runs[::2], runs[1::2], strict=True):
        _append(merged, low, high, gap)
    return merged
