"""What the flight recorder holds, as files of an incident."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

import msgspec

from collector.host.clock import boot_id, boot_s
from collector.host.disk_counters import disk_name
from collector.host.procfs import PAGE_BYTES
from collector.model.artifact import Artifact
from collector.model.recording import COLUMNS, DISK_COLUMNS, Column, Recording, Second, read_second
from collector.model.text import escape, joined
from collector.model.top_processes import Round, TopProcess, read_round

FORMAT = 1
NO_DAEMON = "there was no daemon: these are the seconds of the run itself"
LONGER = "the incident took longer than the recorder goes back"
NO_ROUND = "no round over the processes was complete yet"
TOP_COLUMNS = (
    Column("pid", "", "identity"),
    Column("comm", "", "identity"),
    Column("start", "clock ticks since boot", "identity"),
    Column("rss", "bytes", "gauge"),
    Column("cpu", "1/1000 of one CPU since the last visit", "gauge"),
)


class ColumnHead(msgspec.Struct, frozen=True, kw_only=True):
    """A column in the first line of a file."""

    name: str
    unit: str
    kind: str


class Moments(msgspec.Struct, frozen=True, kw_only=True):
    """One moment by the clock that nobody sets, and by the wall clock."""

    boottime_s: float
    wall_s: float


class RecordingHead(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The first line of each file: what the others hold; *disks* are the kernel's names by number."""

    recorder: int
    boot_id: str
    period_s: float
    keep_s: float
    page_bytes: int
    started: Moments
    read: Moments
    note: str = ""
    columns: tuple[ColumnHead, ...]
    disk_columns: tuple[ColumnHead, ...] = ()
    disks: dict[str, str] = {}


class RoundLine(msgspec.Struct, frozen=True, kw_only=True):
    """One round over all processes, in seconds since boot; each process in the order of the columns."""

    began_s: float
    ended_s: float
    processes: int
    by_memory: tuple[tuple[Any, ...], ...]
    by_cpu: tuple[tuple[Any, ...], ...]


def history(recording: Recording) -> Iterator[Artifact]:
    """Yield ``recorder.jsonl``, the seconds until now, and ``top.jsonl``, the largest processes."""
    yield _artifact("recorder.jsonl", seconds(recording))
    yield _artifact("top.jsonl", rounds(recording))


def during(recording: Recording, since_s: float) -> Iterator[Artifact]:
    """Yield ``during.jsonl``: the seconds since the incident began, at *since_s* since boot, or those left of them."""
    lost_s = _lost_s(recording, since_s)
    truncated = f"{LONGER}: its first {lost_s:.0f} s are missing" if lost_s > recording.settings.period_s / 2 else ""
    yield _artifact("during.jsonl", seconds(recording, since_s), truncated=truncated)


def seconds(recording: Recording, since_s: float = 0.0) -> Iterator[bytes]:
    """Yield the head and a line for each row since *since_s* since boot, the oldest first, one row at a time."""
    disks = sorted({disk.number for row in _rows(recording, since_s) for disk in row.disks})
    yield _line(
        _head(
            recording,
            (*COLUMNS, Column("disks", "", "disks")),
            note=NO_DAEMON if recording.origin[2] else "",
            disk_columns=(Column("disk", "", "identity"), *DISK_COLUMNS),
            disks={number: disk_name(number) for number in disks},
        )
    )
    yield from (_line((*row.figures, row.disks)) for row in _rows(recording, since_s))


def rounds(recording: Recording) -> Iterator[bytes]:
    """Yield the head and a line for each complete round, the oldest first."""
    yield _line(_head(recording, TOP_COLUMNS, note="" if recording.rounds.written else NO_ROUND))
    yield from (_line(_round_line(read_round(row))) for row in recording.rounds.rows())


def _lost_s(recording: Recording, since_s: float) -> float:
    """Return how much of the time since *since_s* is overwritten."""
    ring = recording.seconds
    oldest = next(ring.rows(), None) if ring.written > ring.capacity else None
    return 0.0 if oldest is None else read_second(oldest).at_s - since_s


def _rows(recording: Recording, since_s: float) -> Iterator[Second]:
    rows = map(read_second, recording.seconds.rows())
    return (row for row in rows if row.at_s >= round(since_s, 3))  # as rows are


def _round_line(one: Round) -> RoundLine:
    return RoundLine(
        began_s=round(one.began_s, 3),
        ended_s=round(one.ended_s, 3),
        processes=one.processes,
        by_memory=tuple(map(_process, one.by_memory)),
        by_cpu=tuple(map(_process, one.by_cpu)),
    )


def _process(process: TopProcess) -> tuple[Any, ...]:
    return process.pid, escape(process.comm), process.start_ticks, process.rss_bytes, process.cpu


def _head(recording: Recording, columns: Iterable[Column], **more: Any) -> RecordingHead:
    boot_ns, wall_ns, _ = recording.origin
    return RecordingHead(
        recorder=FORMAT,
        boot_id=boot_id(),
        period_s=recording.settings.period_s,
        keep_s=recording.settings.keep_s,
        page_bytes=PAGE_BYTES,
        started=Moments(boottime_s=round(boot_ns / 1e9, 3), wall_s=round(wall_ns / 1e9, 3)),
        read=Moments(boottime_s=round(boot_s(), 3), wall_s=round(time.time(), 3)),
        columns=tuple(map(_column, columns)),
        disk_columns=tuple(map(_column, more.pop("disk_columns", ()))),
        **more,
    )


def _column(column: Column) -> ColumnHead:
    return ColumnHead(name=column.name, unit=column.unit, kind=column.kind)


def _line(what: Any) -> bytes:
    return msgspec.json.encode(what) + b"\n"


def _artifact(name: str, lines: Iterable[bytes], *, truncated: str = "") -> Artifact:
    return Artifact(path=PurePosixPath(name), body=joined(lines), truncated=truncated, media="jsonl")
