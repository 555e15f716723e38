"""The marker of a run by hand."""

from __future__ import annotations

import time
from collections.abc import Iterable

from collector.host.files import Host
from collector.host.procfs import Process
from collector.model.conditions import MANUAL
from collector.model.errors import UsageError
from collector.model.marker import Marker, MarkerKind, ProcessRef
from collector.triggers.facts import MAX_PID


def find_processes(pids: Iterable[int]) -> tuple[ProcessRef, ...]:
    """Return processes with their start times, since PIDs may be reused; raise `UsageError` if one does not exist."""
    found = []
    for pid in pids:
        _check(pid)
        try:
            with Process(Host(), pid) as process:
                found.append(ProcessRef(pid=pid, start_time_ticks=process.start_ticks))
        except (FileNotFoundError, ProcessLookupError) as exc:
            raise UsageError(f"there is no process {pid}", hint="`ps -e` lists all processes") from exc
    return tuple(found)


def manual_marker(reason: str, processes: tuple[ProcessRef, ...], *, uid: int) -> Marker:
    """Return the marker of ``collector run --now``, asked for by *uid*; raise `UsageError` if a PID is none."""
    for process in processes:
        _check(process.pid)
    return Marker(
        kind=MarkerKind.MANUAL,
        trigger=MANUAL,
        at_s=time.time(),
        reason=reason or "by hand",
        uid=uid,
        process=processes[0] if processes else None,
        also=processes[1:],
    )


def _check(pid: int) -> None:
    if not 0 < pid <= MAX_PID:
        raise UsageError(f"{pid} is not a PID", hint=f"PIDs are numbers from 1 to {MAX_PID}")
