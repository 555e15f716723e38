"""The flight recorder's files of an archived incident; nothing in them is trusted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from collector.model.decode import MalformedError, decode
from collector.model.incident import Manifest
from collector.model.recording import STEP
from collector.report.archived_lines import artifact_path, lines
from collector.runner.recorded_files import RecordingHead

FILES = ("recorder.jsonl", "during.jsonl")
MAX_ROWS = 4096
"""Of one file: the recorder keeps 3,600 at the most."""

MAX_FIGURE = float(1 << 64)
LAST_S = 253_402_000_000.0
"""Late in the year 9999: what no calendar has cannot be drawn."""


class ArchivedSecond(NamedTuple):
    """
    A row of the recorder.

    *at_s* is since the epoch, by the wall clock as it was when the file was read; *figures* are by the columns' names,
    ``None`` for what the kernel does not have; *disks* by their numbers, and then by the names of their columns.
    """

    at_s: float
    figures: dict[str, float | None]
    disks: dict[str, dict[str, float | None]]


@dataclass(frozen=True, kw_only=True)
class ArchivedRecording:
    """
    What an incident holds of the recorder.

    Args:
        period_s: Between two rows.
        seconds: The rows before and during the incident, the oldest first.
        disks: The names of the disks by their numbers.
        note: What the recorder says about them.
    """

    period_s: float = 1.0
    seconds: tuple[ArchivedSecond, ...] = ()
    disks: dict[str, str] = field(default_factory=dict)
    note: str = ""


def read_recording(incident: int, manifest: Manifest) -> ArchivedRecording:
    """Return what can be read of the recorder's files in the directory *incident*."""
    heads: list[RecordingHead] = []
    seconds: dict[float, ArchivedSecond] = {}
    for name in FILES:
        found = lines(incident, artifact_path(manifest, STEP, name))
        try:
            head = decode(next(found, b""), RecordingHead)
        except MalformedError:
            continue
        heads.append(head)
        seconds |= {second.at_s: second for second in _seconds(head, found)}  # the files may share a row
    if not heads:
        return ArchivedRecording()
    return ArchivedRecording(
        period_s=min(max(heads[0].period_s, 0.1), 3600.0),
        seconds=tuple(seconds[at_s] for at_s in sorted(seconds)),
        disks={number: name for head in heads for number, name in head.disks.items()},
        note=heads[0].note,
    )


def _seconds(head: RecordingHead, found: Iterable[bytes]) -> Iterator[ArchivedSecond]:
    names = [column.name for column in head.columns]
    disk_names = [column.name for column in head.disk_columns][1:]
    wall_s = head.read.wall_s - head.read.boottime_s
    for line, _ in zip(found, range(MAX_ROWS), strict=False):
        try:
            row = decode(line, list[Any])
        except MalformedError:
            continue
        figures = dict(zip(names, map(_figure, row), strict=False))
        boot_s = figures.get("boottime")
        if boot_s is not None and 0 <= (at_s := round(wall_s + boot_s, 3)) <= LAST_S:
            yield ArchivedSecond(at_s, figures, dict(_disks(row, disk_names)))


def _disks(row: list[Any], names: list[str]) -> Iterator[tuple[str, dict[str, float | None]]]:
    for disk in row[-1] if isinstance(row[-1], list) else ():
        if isinstance(disk, list) and disk and isinstance(disk[0], str):
            yield disk[0], dict(zip(names, map(_figure, disk[1:]), strict=False))


def _figure(found: Any) -> float | None:
    """Return *found* if it can be a figure."""
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    return float(found) if is_number and 0 <= found <= MAX_FIGURE else None
