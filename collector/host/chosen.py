"""Which processes a step looks at, each opened once."""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator
from contextlib import ExitStack
from fnmatch import fnmatchcase

import msgspec

from collector.host.files import Host
from collector.host.procfs import Process, ReplacedError, pids
from collector.model.errors import StepError
from collector.model.marker import Marker
from collector.model.text import escape, escape_name


class Outcome(enum.StrEnum):
    """What came of a process."""

    READ = "read"
    GONE = "gone"
    REPLACED = "replaced"
    ENDED = "ended"
    WEDGED = "wedged"
    PARTIAL = "partial"
    NOT_READ = "not_read"


INCOMPLETE = frozenset({Outcome.WEDGED, Outcome.PARTIAL, Outcome.NOT_READ})


class Chosen(msgspec.Struct, kw_only=True):
    """One line of ``inventory.jsonl``: a process, why it was chosen, what came of it, and why that."""

    pid: int
    why: str
    start_ticks: int | None = None
    comm: str = ""
    exe: str = ""
    outcome: Outcome = Outcome.READ
    detail: str = ""

    def end(self, outcome: Outcome, detail: str) -> None:
        """Record what came of it."""
        self.outcome, self.detail = outcome, detail


def hold(
    host: Host, marker: Marker, *, globs: tuple[str, ...], limit: int, stack: ExitStack, rows: list[Chosen]
) -> Iterator[tuple[Process, Chosen]]:
    """
    Open the marker's processes and those that *globs* name, at most *limit*.

    Args:
        host: The door to the kernel.
        marker: Names processes, by PID and, where it is known, start time.
        globs: Compared with each process's name, its executable's path and base name.
        limit: At most so many processes; the marker's first.
        stack: Keeps them open.
        rows: Gets a line for each that was chosen, also for one that is gone.

    Yields:
        Those that could be opened.
    """
    for pid, start_ticks, lived_at_s in _wanted(host, marker, globs):
        why = "match" if lived_at_s is None else "marker"
        if len(rows) == limit:
            rows.append(Chosen(pid=pid, why=why, outcome=Outcome.NOT_READ, detail=f"more than {limit} processes"))
            return
        row = Chosen(pid=pid, why=why, start_ticks=start_ticks)
        rows.append(row)
        try:
            process = stack.enter_context(Process(host, pid, start_ticks, lived_at_s=lived_at_s))
            row.start_ticks = process.start_ticks
            row.comm, row.exe = _names(process)
        except ReplacedError as exc:
            row.end(Outcome.REPLACED, str(exc))
        except (OSError, StepError) as exc:
            row.end(Outcome.GONE, str(exc))
        else:
            yield process, row


def _wanted(host: Host, marker: Marker, globs: tuple[str, ...]) -> Iterator[tuple[int, int | None, float | None]]:
    """Yield PID, start time where it is known, and for the marker's when it must have lived; each once."""
    seen = {os.getpid()} if globs else set()
    for reference in (marker.process, *marker.also):
        if reference is not None and reference.pid not in seen:
            seen.add(reference.pid)
            yield reference.pid, reference.start_time_ticks, marker.at_s
    if globs:
        yield from ((pid, None, None) for pid in pids(host) if pid not in seen and _matches(host, pid, globs))


def _matches(host: Host, pid: int, globs: tuple[str, ...]) -> bool:
    try:
        with Process(host, pid) as process:
            comm, exe = _names(process)
    except (OSError, StepError):
        return False
    names = (comm, exe, exe.rpartition("/")[2])
    return any(fnmatchcase(name, glob) for glob in globs for name in names if name)


def _names(process: Process) -> tuple[str, str]:
    """Return comm and the executable's path; that is empty for a kernel thread, or without permission."""
    comm = escape(process.stat().comm)
    try:
        return comm, escape_name(process.link("exe"))
    except OSError:
        return comm, ""
