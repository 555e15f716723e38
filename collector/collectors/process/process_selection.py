"""Which processes a step reads, each opened once."""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from fnmatch import fnmatchcase
from itertools import islice

import msgspec

from collector.host.files import Host, read_at
from collector.host.own_procfs import LIMIT_REASON, STAT_ONLY, Procfs, WalkError, affordable, batches, fits
from collector.host.process_identity import real_uid
from collector.host.process_stat import read_stat
from collector.host.procfs import Process, ReplacedError
from collector.host.subordinates import owners
from collector.model.errors import StepError
from collector.model.marker import Marker
from collector.model.owners import Owners, by_owner
from collector.model.shares import FairChoice
from collector.model.text import escape, escape_name

# Comparing a process with its executable looks up three names: its directory, stat and exe; if it matches, status, too.
WITH_EXE = affordable(names=4)
STATUS_BYTES = 4096


class ProcessOutcome(enum.StrEnum):
    """How reading a process ended; docs/collectors/process.md explains each."""

    READ = "read"
    GONE = "gone"
    REPLACED = "replaced"
    ENDED = "ended"
    WEDGED = "wedged"
    PARTIAL = "partial"
    NOT_READ = "not_read"


INCOMPLETE = frozenset({ProcessOutcome.WEDGED, ProcessOutcome.PARTIAL, ProcessOutcome.NOT_READ})
ENDED = frozenset({ProcessOutcome.GONE, ProcessOutcome.ENDED})
UNCONFIRMED = "when its crash was noticed, it was gone, or its PID was another process's"


class ProcessRow(msgspec.Struct, kw_only=True):
    """One line of ``inventory.jsonl``: a process, why it was selected, the outcome and its reason."""

    pid: int
    why: str
    start_ticks: int | None = None
    comm: str = ""
    exe: str = ""
    outcome: ProcessOutcome = ProcessOutcome.READ
    detail: str = ""

    def end(self, outcome: ProcessOutcome, detail: str) -> None:
        self.outcome, self.detail = outcome, detail


def hold(
    host: Host,
    marker: Marker,
    *,
    globs: tuple[str, ...],
    limit: int,
    stack: ExitStack,
    rows: list[ProcessRow],
    unmatched: set[str],
) -> Iterator[tuple[Process, ProcessRow]]:
    """
    Open the marker's processes, then those that match *globs*; yield those that could be opened, with their rows.

    Args:
        globs: Compared with each process's name, and with the path and base name of its executable.
        limit: Maximum number of processes; those that match share what the marker's leave, by their real uids.
        stack: Keeps the processes open.
        rows: Receives a row for each selected process, including those that are gone.
        unmatched: The globs; loses each that a process matches.
    """
    for pid, start_ticks, why in _wanted(host, marker, globs, limit=limit, rows=rows, unmatched=unmatched):
        row = ProcessRow(pid=pid, why=why, start_ticks=start_ticks)
        rows.append(row)
        if why == "marker" and start_ticks is None:
            row.end(ProcessOutcome.GONE, UNCONFIRMED)
            continue
        try:
            process = stack.enter_context(Process(host, pid, start_ticks))
            row.start_ticks = process.start_ticks
            row.comm, row.exe = escape(process.stat().comm), _exe(process.whole_fd)
        except ReplacedError as exc:
            row.end(ProcessOutcome.REPLACED, str(exc))
        except (FileNotFoundError, ProcessLookupError):
            row.end(ProcessOutcome.GONE, "it had ended")
        except (OSError, StepError) as exc:
            row.end(ProcessOutcome.NOT_READ, str(exc))
        else:
            yield process, row


def owner_of(process: Process, users: Owners) -> str:
    """Return whose process it is, by its real uid."""
    try:
        return users.of(real_uid(process.read("status", limit=STATUS_BYTES)))
    except OSError:  # it has ended
        return users.of(None)


def _wanted(
    host: Host, marker: Marker, globs: tuple[str, ...], *, limit: int, rows: list[ProcessRow], unmatched: set[str]
) -> Iterator[tuple[int, int | None, str]]:
    """Yield each process once: PID, start time if known, and why it is wanted; then add rows for what is left out."""
    references = {one.pid: one for one in (marker.process, *marker.also) if one is not None}
    if globs:
        references.pop(os.getpid(), None)
    for own in islice(references.values(), limit):
        yield own.pid, own.start_time_ticks, "marker"
    if len(references) > limit:
        _leave_out(rows, "marker", f"{len(references) - limit} more than {limit} processes")
    if not globs:
        return
    users, problem = owners(host), ""
    choice: FairChoice[int] = FairChoice(max(0, limit - len(references)), rank=lambda _: 0.0)
    try:
        for pid, uid in matching(host, globs, unmatched):
            if pid not in references and pid != os.getpid():
                choice.add(pid, users.of(uid))
    except WalkError as exc:
        problem = str(exc)
    yield from ((pid, None, "match") for pid in choice.chosen())
    if left_out := choice.left_out:
        _leave_out(rows, "match", f"{left_out.total()} match beyond {limit} processes ({by_owner(left_out)})")
    if problem:
        _leave_out(rows, "match", problem)


def _leave_out(rows: list[ProcessRow], why: str, detail: str) -> None:
    rows.append(ProcessRow(pid=0, why=why, outcome=ProcessOutcome.NOT_READ, detail=detail))


def matching(host: Host, globs: tuple[str, ...], unmatched: set[str] | None = None) -> Iterator[tuple[int, int | None]]:
    """
    Yield the processes that match *globs*, with their real uids: that of a set-id program is its caller's.

    Ends with `WalkError` if some were not compared, or only by name. *unmatched* loses each glob that a process
    matches.
    """
    missing = set() if unmatched is None else unmatched
    whole = fits(host, WITH_EXE)
    with closing(batches(host, most=WITH_EXE if whole else STAT_ONLY)) as found:
        for procfs, listed in found:
            for pid in listed:
                status = _status_if_it_matches(procfs, pid, globs, missing, exe=whole)
                if status is not None:
                    yield pid, real_uid(status)
    if not whole:
        raise WalkError(f"processes were compared by their names only, {LIMIT_REASON}")


def _status_if_it_matches(
    procfs: Procfs, pid: int, globs: tuple[str, ...], unmatched: set[str], *, exe: bool
) -> bytes | None:
    try:
        with procfs.process(pid) as dir_fd:
            comm, path = escape(read_stat(dir_fd).comm), _exe(dir_fd) if exe else ""
            if _matches(comm, path, globs, unmatched):
                return read_at(dir_fd, "status", STATUS_BYTES)
    except (OSError, ValueError):
        pass
    return None


def _matches(comm: str, path: str, globs: tuple[str, ...], unmatched: set[str]) -> bool:
    names = (comm, path, path.rpartition("/")[2])
    found = {glob for glob in globs if any(name and fnmatchcase(name, glob) for name in names)}
    unmatched -= found
    return bool(found)


def _exe(dir_fd: int) -> str:
    """Return the executable's path; empty for a kernel thread or without permission."""
    try:
        return escape_name(os.readlink("exe", dir_fd=dir_fd))
    except OSError:
        return ""
