"""What a crash would lead to now: which steps would run, what the gate would say, what they would take."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from itertools import islice

import msgspec

from collector.collectors.base import Collector, Context
from collector.collectors.core.core import Core, KeepCore
from collector.collectors.files.files import Files
from collector.collectors.process.process import ProcessDetails
from collector.collectors.shm.listing import ROOT
from collector.collectors.shm.shm import From, Shm
from collector.host.files import Host, read_at
from collector.host.own_procfs import Procfs, batches
from collector.host.procfs import Process
from collector.host.read_errors import ReadErrors
from collector.model.case import CORE_SIGNALS
from collector.model.conditions import BY_HAND, MANUAL
from collector.model.errors import StepError
from collector.model.knowledge import NOTHING, Knowledge
from collector.model.marker import Marker, ProcessRef
from collector.model.pressure import Budget, Sample, Verdict
from collector.model.segments import Planned
from collector.model.signals import signal_name
from collector.model.text import escape_name
from collector.pipeline.steps import Pipeline, Step
from collector.pressure.gate import decide

# A crash described by its command name is assumed to be like the living processes of that name.
MAX_PROCESSES = 64


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """
    A file that a step would consider.

    *bytes_to_copy* is what would be copied of its *data_bytes*; a sparse file is longer (*size_bytes*).
    *why* it was found; *not_taken* is the reason if it would not be copied.
    """

    name: str
    size_bytes: int
    data_bytes: int
    bytes_to_copy: int
    why: str = ""
    not_taken: str = ""


class StepFinding(msgspec.Struct, frozen=True, kw_only=True):
    """What a step finds on the machine now; *unknown* is what only the crash itself can tell."""

    matches: tuple[Match, ...] = ()
    disk_bytes: int | None = None
    unknown: str | None = None


class StepForecast(msgspec.Struct, frozen=True, kw_only=True):
    """
    One step. *when* has its conditions in words; *condition* is the one that this crash does not meet, if any.
    *not_applicable* is why such a crash has no such evidence by nature, if that is certain.

    *reads_first*: the step, or its small head, is read before anything waits. *verdict* is the gate's answer now.
    *finding* is ``None`` if what the step would take is small and cannot be known.
    """

    id: str
    collector: str
    when: str
    condition: str | None
    timeout_s: float
    reads_first: bool
    verdict: Verdict
    finding: StepFinding | None = None
    not_applicable: str | None = None

    @property
    def left_out(self) -> str | None:
        """Why the step would collect nothing of such a crash; ``None`` if it would, or may."""
        return self.condition or self.not_applicable


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """
    A pipeline as it would run now.

    *unseen* is why the trigger would not report such a crash at all; ``None`` if it may. *disk_bytes* is what its bulk
    would take of *disk_free_bytes*.
    """

    pipeline: str
    trigger: str
    archive: str
    unseen: str | None
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
    knows: Knowledge,
    archive: str,
    reserve_bytes: int,
    findings: Mapping[str, StepFinding],
) -> Forecast:
    """
    Return what *pipeline* would do for *marker*, the crash as far as it is described.

    *knows* is what markers of its trigger can say: a condition that they never meet is not met, however the crash is
    described. *reserve_bytes* is the free space that the archive's file system keeps; *findings* are by step id, from
    `find`.
    """
    steps = tuple(
        StepForecast(
            id=step.id,
            collector=step.collector.name,
            when=step.when.text(),
            condition=unmet(step, marker, {marker.trigger: knows}),
            not_applicable=not_applicable(step.collector, marker, knows),
            timeout_s=step.timeout_s,
            reads_first=step.reads_first,
            verdict=decide(sample, budget=_budget(step, findings), limits=step.limits, reserve_bytes=reserve_bytes),
            finding=findings.get(step.id),
        )
        for step in pipeline.steps
    )
    takes = (step.finding.disk_bytes or 0 for step in steps if step.finding and step.left_out is None)
    return Forecast(
        pipeline=pipeline.name,
        trigger=marker.trigger,
        archive=archive,
        unseen=_unseen(marker, knows),
        steps=steps,
        disk_bytes=sum(takes),
        disk_free_bytes=sample.disk.free_bytes if sample.disk else None,
        reserve_bytes=reserve_bytes,
    )


def _unseen(marker: Marker, knows: Knowledge) -> str | None:
    if marker.signal is None or knows.signals is None or marker.signal in knows.signals:
        return None
    return f"{marker.trigger} does not report a death by {signal_name(marker.signal)}"


def _budget(step: Step, findings: Mapping[str, StepFinding]) -> Budget:
    """Return the budget of *step*, with the disk space that is known now."""
    finding = findings.get(step.id)
    return step.budget if finding is None else msgspec.structs.replace(step.budget, disk_bytes=finding.disk_bytes or 0)


def unmet(step: Step, marker: Marker, sources: Mapping[str, Knowledge]) -> str | None:
    """Return the condition of *step* that is not met by a crash that *sources* (by trigger id) report, if any."""
    return step.when.never(sources) or step.when.holds(marker)


def not_applicable(collector: Collector, marker: Marker, knows: Knowledge) -> str | None:
    """Return why a step is certain to end as `not_applicable`; ``None`` if it is not."""
    who = BY_HAND if marker.trigger == MANUAL else marker.trigger
    about_nobody = knows == NOTHING and marker.process is None and not marker.also
    match collector:
        case Core() if knows == NOTHING:
            return f"{who} has no core"
        case Core() if marker.signal is not None and marker.signal not in CORE_SIGNALS:
            return f"{signal_name(marker.signal)} dumps no core"
        case ProcessDetails(match=()) if about_nobody:
            return f"{who} is about no process"
        case Shm(from_=From.CRASHED_PROCESS, segments=()) if about_nobody:
            return f"{who} is about no process"
    return None


def find(pipeline: Pipeline, marker: Marker, host: Host) -> dict[str, StepFinding]:
    """Return what each bulk step of *pipeline* would take, by the step's id."""
    found = ((step.id, _finding(step.collector, marker, host)) for step in pipeline.steps)
    return {name: finding for name, finding in found if finding is not None}


def _finding(collector: Collector, marker: Marker, host: Host) -> StepFinding | None:
    match collector:
        case Shm():
            return _segments(collector, marker, host)
        case Files():
            return _files(collector, host)
        case Core() if collector.keep is KeepCore.COPY:
            return StepFinding(unknown="the size of the core")
    return None


def _segments(shm: Shm, marker: Marker, host: Host) -> StepFinding:
    """Return the segments that globs name, and those that the described processes have mapped."""
    alive: tuple[ProcessRef, ...] = ()
    unknown = None
    if shm.from_ is From.CRASHED_PROCESS:
        alive = tuple(_described(marker, host))
        unknown = None if alive else "the segments that the crashed process had mapped"
    described = msgspec.structs.replace(marker, process=None, also=alive)
    try:
        planned = shm.preview(Context(host=host, marker=described, deadline_s=float("inf")))
    except StepError as exc:
        return StepFinding(unknown=str(exc))
    return _found(map(_segment, planned), unknown)


def _found(matches: Iterator[Match], unknown: str | None = None) -> StepFinding:
    found = tuple(matches)
    return StepFinding(matches=found, disk_bytes=sum(match.bytes_to_copy for match in found), unknown=unknown)


def _segment(row: Planned) -> Match:
    taken = row.data_bytes if row.limit_bytes is None else row.limit_bytes
    return Match(
        name=f"{ROOT}/{row.name}",
        size_bytes=row.size_bytes,
        data_bytes=row.data_bytes,
        bytes_to_copy=0 if row.not_taken else taken,
        why=row.why,
        not_taken=row.not_taken,
    )


def _described(marker: Marker, host: Host) -> Iterator[ProcessRef]:
    """Yield the processes that live now and would leave such a marker if they crashed."""
    if marker.process is not None:
        yield from _alive(host, [marker.process.pid])
    elif marker.comm is not None or marker.exe is not None:
        with closing(batches(host)) as found:
            alive = (pid for procfs, listed in found for pid in listed if _fits(procfs, pid, marker))
            yield from _alive(host, islice(alive, MAX_PROCESSES))


def _alive(host: Host, pids: Iterable[int]) -> Iterator[ProcessRef]:
    """Yield the processes that have these PIDs now."""
    for pid in pids:
        with suppress(OSError), Process(host, pid) as process:
            yield ProcessRef(pid=pid, start_time_ticks=process.start_ticks)


def _fits(procfs: Procfs, pid: int, marker: Marker) -> bool:
    try:
        with procfs.process(pid) as fd:
            comm = read_at(fd, "comm", 64).rstrip(b"\n").decode("utf-8", "surrogateescape")
            return marker.comm in (None, comm) and (marker.exe is None or os.readlink("exe", dir_fd=fd) == marker.exe)
    except OSError:
        return False  # it ended meanwhile, or is a kernel thread or another user's


def _files(files: Files, host: Host) -> StepFinding:
    choice = files.choose(host, ReadErrors())
    taken = {file.path for file in choice.chosen}
    return _found(
        Match(
            name=escape_name(file.path),
            size_bytes=file.status.st_size,
            data_bytes=min(file.status.st_size, 512 * file.status.st_blocks),
            bytes_to_copy=min(file.status.st_size, files.max_bytes) if file.path in taken else 0,
            not_taken="" if file.path in taken else "beyond max_total",
        )
        for file in (*choice.chosen, *choice.beyond_total)
    )
