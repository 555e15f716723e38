"""
What the supervisor sends to a worker, over a socket pair that keeps message boundaries.

Jobs are pickled: they go to a process that the supervisor forked itself. What comes back is in `runner.replies`.
"""

from __future__ import annotations

import msgspec

from collector.collectors.base import Collector
from collector.host.held_process import DumpSource
from collector.model.copying import CopySettings
from collector.model.handover import HandoverSettings
from collector.model.incident import (
    Continuation,
    HoldRecord,
    IncidentHeader,
    StepEnd,
    StepStatus,
)
from collector.model.marker import Marker, ProcessRef
from collector.model.pressure import Budget, GateLimits, Tick
from collector.model.redaction import Redaction
from collector.model.retention import RetentionRules
from collector.model.units import Reserve
from collector.model.watched_files import WatchedFiles

ARCHIVE_JOB_S = 60.0
"""Deadline of a job that only writes the archive's own records."""

JOB, INTERRUPT, STOP = b"job", b"interrupt", b"stop"
"""*JOB*: there is one to read. Sent during a job, *INTERRUPT* ends one that can wait, *STOP* ends any copy."""


class ArchiveJob(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all jobs that work in the archive at a path."""

    archive: str


class IncidentJob(ArchiveJob, frozen=True, kw_only=True):
    """Base of all jobs for an incident that exists, by id."""

    incident: str


class Begin(ArchiveJob, frozen=True, kw_only=True):
    """Open an incident; the reply carries a descriptor that holds its lock, and what its copies must leave free."""

    header: IncidentHeader
    reserve: Reserve
    keep: RetentionRules
    hands_over: bool = False


class HeldJob(msgspec.Struct, frozen=True, kw_only=True):
    """A process that the kernel holds: what `HeldProcess` needs beside its two descriptors, which come with the job."""

    process: ProcessRef
    source: DumpSource
    since_s: float
    deadline_s: float
    hurry: str


class ReadStep(msgspec.Struct, frozen=True, kw_only=True):
    """Read what one light collector yields, up to its first file, into memory; *fresh*: which holds nothing yet."""

    step: str
    collector: Collector
    marker: Marker
    deadline_s: float
    redaction: Redaction
    fresh: bool
    held: HeldJob | None = None


class OpenFiles(msgspec.Struct, frozen=True, kw_only=True):
    """
    Put what a collector yields into a parcel, whose end comes with this job: its files are opened now, copied later.

    Like what is read into memory, this comes before anything waits.
    """

    step: str
    collector: Collector
    marker: Marker
    deadline_s: float
    redaction: Redaction
    held: HeldJob


class WriteSpool(IncidentJob, frozen=True, kw_only=True):
    """Write what was read into the memories that come with this job, and the ends of the steps that this completes."""

    ends: tuple[StepEnd, ...]
    reserve_bytes: int
    copy: CopySettings


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """How a collector ended whose files were opened first."""

    status: StepStatus
    reason: str


class RunStep(IncidentJob, frozen=True, kw_only=True):
    """
    Run one collector and write what it yields.

    *kept_free_bytes*: what copies must leave free, for the shares of others, too. *goes_on*: its first artifacts are
    written already, and are skipped. *waited_s*: how long the incident has waited for the gate so far. *ticks*: the
    distress that the supervisor has seen in the last seconds. *opened*: the collector has run already, and ended so;
    what it yielded is in the parcel that comes with this job. *continues*: a run that was cut off may have begun it.
    """

    step: str
    collector: Collector
    marker: Marker
    deadline_s: float
    limits: GateLimits
    budget: Budget
    reserve_bytes: int
    copy: CopySettings
    redaction: Redaction
    goes_on: bool = False
    kept_free_bytes: int = 0
    waited_s: float = 0.0
    ticks: tuple[Tick, ...] = ()
    held: HeldJob | None = None
    opened: Opened | None = None
    continues: bool = False


class RecordSteps(IncidentJob, frozen=True, kw_only=True):
    """Append the ends of steps to the journal."""

    ends: tuple[StepEnd, ...]


class Seal(IncidentJob, frozen=True, kw_only=True):
    """Give an incident its manifest and its final name; *ends* are all steps, in case the journal lacks some."""

    ended_s: float
    interrupted: bool
    markers: tuple[Marker, ...]
    ends: tuple[StepEnd, ...] = ()
    hold: HoldRecord | None = None


class Continue(IncidentJob, frozen=True, kw_only=True):
    """
    Go on with an incident that was cut off; the reply carries a descriptor that holds its lock, and `Resumed`.

    *record* says so in the incident, but for what only the worker can know.
    """

    owner: str
    reserve: Reserve
    record: Continuation


class WriteSeconds(IncidentJob, frozen=True, kw_only=True):
    """Write the rows of the flight recorder since the incident began, at *since_s* since boot."""

    since_s: float
    reserve_bytes: int
    copy: CopySettings


class VisitProcesses(msgspec.Struct, frozen=True):
    """Visit the next `recorder_job.VISITED` processes, for the flight recorder."""


class Recover(ArchiveJob, frozen=True, kw_only=True):
    """
    Seal what a killed run left behind; wait up to *wait_s* for its workers, which may still sync a disk, to die.

    What began in this boot, by its *boot_id*, and can be continued is left as it is, and its ids are in the reply. The
    incidents to *spare* are left, too; with *only*, all but that one.
    """

    now_s: float
    wait_s: float = 0.0
    boot_id: str | None = None
    spare: tuple[str, ...] = ()
    only: str | None = None


class Prune(ArchiveJob, frozen=True, kw_only=True):
    """Delete what retention does not keep, except the incident to *spare*."""

    rules: RetentionRules
    reserve: Reserve = Reserve(size_bytes=0)
    spare: str = ""


class KeepClock(ArchiveJob, frozen=True, kw_only=True):
    """Store what the archive's clock shows: what is not stored when the machine goes down does not count as age."""


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """Free the memory of a process that was killed and does not die."""

    pid: int


class AddDigests(IncidentJob, frozen=True, kw_only=True):
    """Read back every artifact that has no digest yet, and write the digests into the manifest."""

    deadline_s: float
    limits: GateLimits
    copy: CopySettings


class CoreRule(msgspec.Struct, frozen=True, kw_only=True):
    """
    How the directories of a trigger are kept bounded.

    *remove*: a core is removed once it is archived; else only what is beyond *size_bytes*.
    """

    trigger: str
    files: WatchedFiles
    remove: bool
    size_bytes: int | None


class RemoveCores(ArchiveJob, frozen=True, kw_only=True):
    """Remove core files of which the archive has a whole copy, after comparing both."""

    rules: tuple[CoreRule, ...]
    deadline_s: float
    limits: GateLimits
    copy: CopySettings


class HandOver(IncidentJob, frozen=True, kw_only=True):
    """Run the program that takes over sealed incidents, once, for this one."""

    settings: HandoverSettings


class FindHandovers(ArchiveJob, frozen=True, kw_only=True):
    """Find up to *limit* incidents that are still to be handed over."""

    limit: int


class FindUndigested(ArchiveJob, frozen=True, kw_only=True):
    """Find which of the newest *limit* incidents lack a digest."""

    limit: int


class Summarize(ArchiveJob, frozen=True, kw_only=True):
    """Summarize the newest incidents for others than root; the reply brings a descriptor with the summaries."""


IncidentJobs = Begin | Continue | ReadStep | OpenFiles | WriteSpool | RunStep | RecordSteps | WriteSeconds | Seal
HandoverJobs = HandOver | FindHandovers
ArchiveJobs = Recover | Prune | KeepClock | AddDigests | FindUndigested | RemoveCores | Summarize | HandoverJobs
Job = IncidentJobs | ArchiveJobs | VisitProcesses | Release
