"""Which processes a step looks at, each opened once."""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from fnmatch import fnmatchcase

import msgspec

from collector.host.files import Host
from collector.host.own_procfs import NO_MORE, STAT_ALONE, Procfs, WalkError, affordable, batches, fits
from collector.host.procfs import STAT_LIMIT, Process, ReplacedError, parse_stat, read_at
from collector.model.errors import StepError
from collector.model.marker import Marker
from collector.model.text import escape, escape_name

# The names looked up of a process to compare it: its directory, stat, exe.
WITH_EXE = affordable(names=3)


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
    for pid, start_ticks, lived_at_s in _wanted(host, marker, globs, rows):
        why = "match" if lived_at_s is None else "marker"
        if len(rows) == limit:
            rows.append(Chosen(pid=pid, why=why, outcome=Outcome.NOT_READ, detail=f"more than {limit} processes"))
            return
        row = Chosen(pid=pid, why=why, start_ticks=start_ticks)
        rows.append(row)
        try:
            process = stack.enter_context(Process(host, pid, start_ticks, lived_at_s=lived_at_s))
            row.start_ticks = process.start_ticks
            row.comm, row.exe = escape(process.stat().comm), _exe(process.dir_fd)
        except ReplacedError as exc:
            row.end(Outcome.REPLACED, str(exc))
        except (OSError, StepError) as exc:
            row.end(Outcome.GONE, str(exc))
        else:
            yield process, row


def _wanted(
    host: Host, marker: Marker, globs: tuple[str, ...], rows: list[Chosen]
) -> Iterator[tuple[int, int | None, float | None]]:
    """Yield PID, start time where it is known, and for the marker's when it must have lived; each once."""
    seen = {os.getpid()} if globs else set()
    for reference in (marker.process, *marker.also):
        if reference is not None and reference.pid not in seen:
            seen.add(reference.pid)
            yield reference.pid, reference.start_time_ticks, marker.at_s
    if globs:
        try:
            yield from ((pid, None, None) for pid in _matching(host, globs) if pid not in seen)
        except WalkError as exc:
            rows.append(Chosen(pid=0, why="match", outcome=Outcome.NOT_READ, detail=str(exc)))


def _matching(host: Host, globs: tuple[str, ...]) -> Iterator[int]:
    """
    Yield the processes that *globs* name.

    Raises:
        WalkError: At the end, if some were not compared, or not by their executables.
    """
    whole = fits(host, WITH_EXE)
    with closing(batches(host, most=WITH_EXE if whole else STAT_ALONE)) as found:
        for procfs, listed in found:
            yield from (pid for pid in listed if _matches(procfs, pid, globs, exe=whole))
    if not whole:
        raise WalkError(f"processes were compared by their names only, {NO_MORE}")


def _matches(procfs: Procfs, pid: int, globs: tuple[str, ...], *, exe: bool) -> bool:
    try:
        dir_fd = procfs.open(pid)
    except OSError:
        return False
    try:
        comm = escape(parse_stat(read_at(dir_fd, "stat", STAT_LIMIT)).comm)
        path = _exe(dir_fd) if exe else ""
    except (OSError, ValueError):
        return False
    finally:
        os.close(dir_fd)
    names = (comm, path, path.rpartition("/")[2])
    return any(fnmatchcase(name, glob) for glob in globs for name in names if name)


def _exe(dir_fd: int) -> str:
    """Return the executable's path; empty for a kernel thread, or without permission."""
    try:
        return escape_name(os.readlink("exe", dir_fd=dir_fd))
    except OSError:
        return ""
