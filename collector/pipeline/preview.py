"""What would happen if it crashed now: which steps would run, what the gate would say, what they would take."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import islice

import msgspec

from collector.collectors.base import Collector
from collector.collectors.core.core import Core, Keep
from collector.collectors.files import Files
from collector.collectors.shm.listing import ROOT, Entry, walk
from collector.collectors.shm.mapped_segments import of_process, segment_name
from collector.collectors.shm.shm import From, Shm
from collector.host.files import Host
from collector.host.globs import expand
from collector.host.guarded_read import Guard
from collector.host.own_procfs import Procfs, batches
from collector.host.procfs import Process, read_at
from collector.host.read_errors import Unreads
from collector.model.errors import StepError
from collector.model.marker import Marker
from collector.model.pressure import Budget, Sample, Verdict
from collector.model.segments import OWN, Candidate, Limits, Planned, matches, plan, rank
from collector.model.text import escape_name
from collector.pipeline.steps import Pipeline, Step
from collector.pressure.gate import decide


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """
    A file that a step would consider.

    *bytes_to_copy* is what would be copied of its *data_bytes*; a sparse file is longer (*size_bytes*).
    *why* it was found; *not_taken* says why it is left where it is after all.
    """

    name: str
    size_bytes: int
    data_bytes: int
    bytes_to_copy: int
    why: str = ""
    not_taken: str = ""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a step finds on the machine now; *unknown* says what only the crash itself will tell."""

    matches: tuple[Match, ...] = ()
    disk_bytes: int | None = None
    unknown: str | None = None


class StepForecast(msgspec.Struct, frozen=True, kw_only=True):
    """
    One step.

    Args:
        id: Of the step.
        collector: The kind of evidence.
        when: Its conditions in words; empty if it has none.
        condition: Why the step would not run for this crash; ``None`` if it would.
        timeout_s: Its deadline.
        reads_first: It, or what of it is small, is read before anything waits.
        verdict: The gate's answer now, with its class and its budget.
        finding: What it would take; ``None`` if that cannot be known, and is small.
    """

    id: str
    collector: str
    when: str
    condition: str | None
    timeout_s: float
    reads_first: bool
    verdict: Verdict
    finding: Finding | None = None


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline as it would run now. *disk_bytes* is what its bulk would take of *disk_free_bytes*."""

    pipeline: str
    trigger: str
    steps: tuple[StepForecast, ...]
    disk_bytes: int
    disk_free_bytes: int | None
    reserve_bytes: int

    @property
    def fits(self) -> bool:
        """Whether the bulk fits beside the reserve."""
        return self.disk_free_bytes is None or self.disk_free_bytes - self.disk_bytes >= self.reserve_bytes


def forecast(
    pipeline: Pipeline,
    marker: Marker,
    sample: Sample,
    *,
    reserve_bytes: int,
    findings: Mapping[str, Finding],
) -> Forecast:
    """
    Say what *pipeline* would do for *marker*.

    Args:
        pipeline: Compiled.
        marker: The crash, as far as it is described.
        sample: The machine now.
        reserve_bytes: Free space that the archive's file system keeps.
        findings: What steps would take, by their id.
    """
    steps = tuple(
        StepForecast(
            id=step.id,
            collector=step.collector.name,
            when=step.when.text(),
            condition=step.when.holds(marker),
            timeout_s=step.timeout_s,
            reads_first=step.reads_first,
            verdict=decide(sample, budget=_budget(step, findings), limits=step.limits, reserve_bytes=reserve_bytes),
            finding=findings.get(step.id),
        )
        for step in pipeline.steps
    )
    takes = (step.finding.disk_bytes or 0 for step in steps if step.finding and step.condition is None)
    return Forecast(
        pipeline=pipeline.name,
        trigger=marker.trigger,
        steps=steps,
        disk_bytes=sum(takes),
        disk_free_bytes=sample.disk.free_bytes if sample.disk else None,
        reserve_bytes=reserve_bytes,
    )


def _budget(step: Step, findings: Mapping[str, Finding]) -> Budget:
    """Return the budget of *step*, with the disk space that is known now."""
    finding = findings.get(step.id)
    return step.budget if finding is None else msgspec.structs.replace(step.budget, disk_bytes=finding.disk_bytes or 0)


# A crash described by its command name stands for the processes of that name that live now.
MAX_PROCESSES = 64
READ_TIMEOUT_S = 1.0


def findings(pipeline: Pipeline, marker: Marker, host: Host) -> dict[str, Finding]:
    """Return what each bulk step of *pipeline* would take, by the step's id."""
    found = ((step.id, _finding(step.collector, marker, host)) for step in pipeline.steps)
    return {name: finding for name, finding in found if finding is not None}


def _finding(collector: Collector, marker: Marker, host: Host) -> Finding | None:
    match collector:
        case Shm():
            return _segments(collector, marker, host)
        case Files():
            return _files(collector, host)
        case Core() if collector.keep is Keep.COPY:
            return Finding(unknown="the size of the core")
    return None


def _segments(shm: Shm, marker: Marker, host: Host) -> Finding:
    """Return the segments that globs name, and those that the described processes have mapped."""
    own: set[str] = set()
    unknown = None
    if shm.from_ is From.CRASHED_PROCESS:
        alive = list(_described(marker, host))
        own = {name for pid in alive for name in mapped_segments(host, pid)}
        unknown = None if alive else "the segments that the crashed process had mapped"
    candidates = [found for entry in _entries(host) if (found := _candidate(shm, entry, own)) is not None]
    limits = Limits(max_each=shm.max_each, max_total=shm.max_total)
    planned = plan(candidates[: shm.max_segments], order=shm.order, limits=limits)
    matched = tuple(_match(row) for _, row in planned)
    return Finding(matches=matched, disk_bytes=sum(match.bytes_to_copy for match in matched), unknown=unknown)


def _candidate(shm: Shm, entry: Entry, own: set[str]) -> Candidate | None:
    why = (0, OWN) if entry.name in own else rank(entry.name, shm.segments)
    if why is None:
        return None
    return Candidate(
        name=entry.name,
        rank=why[0],
        why=why[1],
        size_bytes=entry.size_bytes,
        data_bytes=entry.data_bytes,
        mtime_ns=entry.mtime_ns,
        gone="excluded" if any(matches(entry.name, glob) for glob in shm.exclude) else "",
    )


def _match(row: Planned) -> Match:
    taken = row.data_bytes if row.limit_bytes is None else row.limit_bytes
    return Match(
        name=f"{ROOT}/{row.name}",
        size_bytes=row.size_bytes,
        data_bytes=row.data_bytes,
        bytes_to_copy=0 if row.not_taken else taken,
        why=row.why,
        not_taken=row.not_taken,
    )


def _entries(host: Host) -> Iterator[Entry]:
    try:
        fd = os.open(host.path(ROOT), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        yield from (entry for entry in walk(fd, Unreads()) if entry.regular)
    finally:
        os.close(fd)


def _described(marker: Marker, host: Host) -> Iterator[int]:
    """Yield the processes that live now and would leave such a marker if they crashed."""
    if marker.process is not None:
        yield marker.process.pid
    elif marker.comm is not None or marker.exe is not None:
        with closing(batches(host)) as found:
            alive = (pid for procfs, listed in found for pid in listed if _fits(procfs, pid, marker))
            yield from islice(alive, MAX_PROCESSES)


def _fits(procfs: Procfs, pid: int, marker: Marker) -> bool:
    try:
        dir_fd = procfs.open(pid)
    except OSError:
        return False
    try:
        comm = read_at(dir_fd, "comm", 64).rstrip(b"\n").decode("utf-8", "surrogateescape")
        return marker.comm in (None, comm) and (marker.exe is None or os.readlink("exe", dir_fd=dir_fd) == marker.exe)
    except OSError:
        return False  # it ended meanwhile, or is a kernel thread, or somebody else's
    finally:
        os.close(dir_fd)


def mapped_segments(host: Host, pid: int) -> set[str]:
    """Return the names of the segments that a live process has mapped; none if that may not be read."""
    try:
        with Process(host, pid) as process, closing(Guard(READ_TIMEOUT_S)) as guard:
            return {name for mapped in of_process(process, guard) if (name := segment_name(mapped)) is not None}
    except (OSError, StepError):
        return set()


def _files(files: Files, host: Host) -> Finding:
    unread = Unreads()
    found = [entry for glob in files.paths for entry in expand(host, glob, unread)]
    newest = sorted(found, key=lambda entry: entry.status.st_mtime_ns, reverse=True)[: files.max_files]
    found_files = tuple(
        Match(
            name=escape_name(entry.path),
            size_bytes=entry.status.st_size,
            data_bytes=min(entry.status.st_size, 512 * entry.status.st_blocks),
            bytes_to_copy=min(entry.status.st_size, files.max_bytes),
        )
        for entry in newest
    )
    total = sum(match.bytes_to_copy for match in found_files)
    return Finding(matches=found_files, disk_bytes=min(total, files.max_total))
