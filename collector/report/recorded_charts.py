"""The charts of a recording: memory, stalls, reclaim and disks, and what the collector itself did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from collector.report.charts import Chart, ChartLine
from collector.report.recording import ArchivedRecording, ArchivedSecond

Read = Callable[[ArchivedSecond], float | None]

GAP_PERIODS = 2.5
"""Rows further apart than so many periods have a gap between them: one that is late is not one."""

SECTOR_BYTES = 512.0
PAGE_BYTES = 4096.0
MAX_DISKS = 4


def gaps(recording: ArchivedRecording) -> list[tuple[float, float]]:
    """Return the times in which rows are missing."""
    times = [second.at_s for second in recording.seconds]
    return [(before, after) for before, after in pairwise(times) if _is_gap(before, after, recording)]


def charts(recording: ArchivedRecording) -> list[Chart]:
    """Return the charts that have figures."""
    whole = [Chart(name, unit, tuple(_lines(recording, lines))) for name, unit, lines in _CHARTS]
    return [chart for chart in (*whole, *_disk_charts(recording)) if any(line.figures() for line in chart.lines)]


def _column(name: str) -> Read:
    return lambda second: second.figures.get(name)


_PERCENT = 1e-4
_CHARTS: tuple[tuple[str, str, tuple[tuple[str, str, float], ...]], ...] = (
    ("Memory", "bytes", (("available", "mem_available", 0), ("free", "mem_free", 0), ("shared", "shmem", 0),
                         ("in /dev/shm", "dev_shm_used", 0))),
    ("Not yet on disk", "bytes", (("dirty", "dirty", 0), ("being written", "writeback", 0))),
    ("Time in which some tasks stalled", "%", (
        ("for memory", "psi_memory_some", _PERCENT), ("for disks", "psi_io_some", _PERCENT),
        ("for CPU", "psi_cpu_some", _PERCENT))),
    ("Time in which all tasks stalled", "%", (
        ("for memory", "psi_memory_full", _PERCENT), ("for disks", "psi_io_full", _PERCENT))),
    ("Reclaim", "bytes/s", (
        ("by kswapd", "pgsteal_kswapd", PAGE_BYTES), ("by processes", "pgsteal_direct", PAGE_BYTES))),
    ("Memory waited for", "per second", (("stalls", "allocstall", 1), ("major faults", "pgmajfault", 1))),
)  # fmt: skip
"""Charts of name, unit and lines: their names, columns, and what a counter is multiplied with; 0 for a gauge."""


def _lines(recording: ArchivedRecording, lines: Sequence[tuple[str, str, float]]) -> Iterator[ChartLine]:
    for name, column, factor in lines:
        yield _rate(recording, name, _column(column), factor) if factor else _gauge(recording, name, _column(column))


def _disk_charts(recording: ArchivedRecording) -> Iterator[Chart]:
    numbers = _busiest(recording)
    for number in numbers:
        lines = tuple(
            _rate(recording, name, _disk_column(number, column), SECTOR_BYTES)
            for name, column in (("read", "read"), ("written", "written"))
        )
        yield Chart(f"Disk {recording.disks.get(number, number)}", "bytes/s", lines)
    if numbers:
        busy = (
            _rate(recording, recording.disks.get(number, number), _disk_column(number, "busy"), 0.1)
            for number in numbers
        )
        yield Chart("Time in which disks were busy", "%", tuple(busy))
    own = (_rate(recording, "written", _column("own_written"), 1), _rate(recording, "CPU", _column("own_cpu"), 1e-4))
    yield Chart("The collector itself: writing", "bytes/s", own[:1])
    yield Chart("The collector itself: share of one CPU", "%", own[1:])


def _busiest(recording: ArchivedRecording) -> list[str]:
    """Return the numbers of the disks that moved most."""
    moved: dict[str, float] = {}
    for before, after in pairwise(recording.seconds):
        for number, disk in after.disks.items():
            for name in ("read", "written"):
                then, now = before.disks.get(number, {}).get(name), disk.get(name)
                moved[number] = moved.get(number, 0.0) + (max(now - then, 0.0) if now and then is not None else 0.0)
    return sorted((number for number in moved if moved[number]), key=lambda number: -moved[number])[:MAX_DISKS]


def _disk_column(number: str, column: str) -> Read:
    return lambda second: second.disks.get(number, {}).get(column)


def _gauge(recording: ArchivedRecording, name: str, read: Read) -> ChartLine:
    points: list[tuple[float, float | None]] = []
    for second in recording.seconds:
        if points and _is_gap(points[-1][0], second.at_s, recording):
            points.append((second.at_s, None))
        points.append((second.at_s, read(second)))
    return ChartLine(name, tuple(points))


def _rate(recording: ArchivedRecording, name: str, read: Read, factor: float) -> ChartLine:
    """Return what a counter grew by per second, times *factor*, at the end of each interval; none across a gap."""
    points: list[tuple[float, float | None]] = []
    for before, after in pairwise(recording.seconds):
        then, now = read(before), read(after)
        whole = then is not None and now is not None and now >= then
        if not whole or _is_gap(before.at_s, after.at_s, recording):
            points.append((after.at_s, None))
        elif after.at_s - before.at_s >= recording.period_s / 4:  # else two incidents' rows: noise
            points.append((after.at_s, (now - then) / (after.at_s - before.at_s) * factor))  # type: ignore[operator]
    return ChartLine(name, tuple(points))


def _is_gap(before_s: float, after_s: float, recording: ArchivedRecording) -> bool:
    return after_s - before_s > GAP_PERIODS * recording.period_s
