"""The machine's memory when it happened, and minutes before: by the flight recorder, else by ``/proc/meminfo``."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from collector.report.documents import Documents
from collector.report.story import MemoryThen

BEFORE_S = 600.0
STALL_S = 10.0
"""Over how long stalls are averaged, as the kernel's own ``avg10`` is."""

_MEMINFO = re.compile(rb"^(MemTotal|MemAvailable|Shmem): +([0-9]{1,15}) kB$", re.MULTILINE)


class _Column(msgspec.Struct, frozen=True, kw_only=True):
    name: str


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    columns: tuple[_Column, ...]


class _Row:
    """One row of the recorder, by the names of its columns."""

    def __init__(self, at: dict[str, int], figures: list[Any]) -> None:
        self._at, self._figures = at, figures

    def figure(self, name: str) -> float | None:
        index = self._at.get(name, len(self._figures))
        found = self._figures[index] if index < len(self._figures) else None
        return found if isinstance(found, int | float) and 0 <= found < 1 << 63 else None

    @property
    def at_s(self) -> float:
        return self.figure("boottime") or 0.0


def memory_then(documents: Documents) -> MemoryThen | None:
    """Return what is known of the machine's memory; ``None`` if nothing is."""
    facts = {name.decode(): int(number) * 1024 for name, number in _MEMINFO.findall(_meminfo(documents))}
    rows = _rows(documents)
    now = rows[-1] if rows else None
    recorded = now.figure("mem_available") if now else None
    available = recorded if recorded is not None else facts.get("MemAvailable")
    if available is None:
        return None
    before = _before(rows, BEFORE_S) if now else None
    before_bytes = before.figure("mem_available") if before else None
    shm = now.figure("dev_shm_used") if now else None
    return MemoryThen(
        available_bytes=int(available),
        total_bytes=facts.get("MemTotal", 0),
        shm_bytes=int(shm) if shm is not None else None,
        shared_bytes=facts.get("Shmem") if shm is None else None,
        stalled_percent=_stalled(rows),
        before_s=now.at_s - before.at_s if now and before and before_bytes is not None else None,
        before_bytes=int(before_bytes) if before_bytes is not None else None,
    )


def _meminfo(documents: Documents) -> bytes:
    path = documents.path("proc_files", "proc/meminfo")
    return documents.data(path) if path else b""


def _rows(documents: Documents) -> list[_Row]:
    """Return the first row that is needed, and those of the last minutes."""
    path = documents.path("recorder", "recorder.jsonl")
    lines = documents.data(path).splitlines() if path else []
    try:
        at = {column.name: number for number, column in enumerate(msgspec.json.decode(lines[0], type=_Head).columns)}
        return [_Row(at, msgspec.json.decode(line, type=list[Any])) for line in lines[1:]]
    except (IndexError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []


def _before(rows: list[_Row], seconds: float) -> _Row | None:
    """Return the row of *seconds* before the last, or the oldest one if that is at least a minute older."""
    wanted_s = rows[-1].at_s - seconds
    found = next((row for row in reversed(rows) if row.at_s <= wanted_s), rows[0])
    return found if rows[-1].at_s - found.at_s >= 60 else None


def _stalled(rows: list[_Row]) -> float | None:
    """Return for what percent of the last seconds some process waited for memory."""
    if len(rows) < 2:
        return None
    now = rows[-1]
    since = next((row for row in reversed(rows[:-1]) if now.at_s - row.at_s >= STALL_S), rows[0])
    waited, before = now.figure("psi_memory_some"), since.figure("psi_memory_some")
    if waited is None or before is None or now.at_s <= since.at_s:
        return None
    return min(100.0, max(0.0, (waited - before) / (now.at_s - since.at_s) / 1e4))
