"""One incident under way: its header, and the state that its light and bulk phases share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from collector import __version__
from collector.archive.layout import new_id
from collector.host.held_process import HeldProcess
from collector.host.identity import MachineIdentity
from collector.model.case import merge
from collector.model.incident import MANIFEST_VERSION, IncidentHeader, LeftOut, StepEnd, StepStatus
from collector.model.marker import Marker
from collector.model.owners import ROOT
from collector.model.pressure import Verdict
from collector.pipeline.generation import RunSettings
from collector.pipeline.steps import Pipeline, Step
from collector.pressure.sampler import Sampler
from collector.runner import events
from collector.runner.coroutine import Task
from collector.runner.pool import Claim, Pool, ensure_worker
from collector.runner.protocol import ARCHIVE_JOB_S, Job, Opened
from collector.runner.replies import Done, Written
from collector.runner.worker_process import JobResult

OUT_OF_TIME = "the incident's time was up"
STOPPED = "the collector was stopped"
NO_LABELS: Mapping[str, str] = MappingProxyType({})


def open_header(
    markers: tuple[Marker, ...],
    pipeline: Pipeline,
    *,
    identity: MachineIdentity,
    config_hash: str,
    now_s: float,
    owner: str = ROOT,
    labels: Mapping[str, str] = NO_LABELS,
) -> IncidentHeader:
    """Return the header of *owner*'s incident that begins at *now_s*, since the epoch, with at least one marker."""
    left_out = tuple(step for step, _ in pipeline.left_out)
    return IncidentHeader(
        version=MANIFEST_VERSION,
        id=new_id(now_s),
        pipeline=pipeline.name,
        markers=markers,
        host=identity.host,
        boot_id=identity.boot_id,
        kernel=identity.kernel,
        collector_version=__version__,
        config_hash=config_hash,
        started_s=now_s,
        planned=tuple(step.id for step in pipeline.steps),
        optional=tuple(step.id for step in (*pipeline.steps, *left_out) if not step.required),
        left_out=(
            *(LeftOut(id=step.id, reason=why) for step, why in pipeline.left_out),
            *(LeftOut(id=step, reason=f"over budget: {pipeline.over_budget}") for step in pipeline.forgone),
        ),
        owner=owner,
        over_budget=pipeline.over_budget,
        labels=dict(labels),
        machine_id=identity.machine_id,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyPart:
    """The part of a step that was read early: when, since the epoch, and what was written of it, if anything."""

    started_s: float
    written: Written | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedFiles:
    """What a step has opened while the crashed process was held: the end of a parcel, and how its collector ended."""

    fd: int
    end: Opened


@dataclass(slots=True, kw_only=True)
class IncidentRun:
    """The state of one incident under way."""

    pool: Pool
    sampler: Sampler
    report: Callable[[events.AnyEvent], None]
    header: IncidentHeader
    pipeline: Pipeline
    settings: RunSettings
    markers: Callable[[], tuple[Marker, ...]]
    """Returns the markers known so far: more of the same crash may arrive during the run."""
    held: Callable[[], HeldProcess | None]
    """Returns the crashed process if the kernel holds it for this incident."""
    start_s: float = field(default_factory=time.monotonic)
    deadline_s: float = field(init=False)
    waited_s: float = 0.0
    """How long the gate has held up the incident: the waits of all steps share one budget."""
    reserve_bytes: int = 0
    kept_free_bytes: int = 0
    """What bulk must leave free on the disk: the reserve, and the shares of others."""
    direct: bool = True
    """The archive's file system supports direct I/O."""
    lock: int = -1
    """Holds the lock on the incident's directory once there is one."""
    ends: list[StepEnd] = field(default_factory=list)
    early_parts: dict[str, EarlyPart] = field(default_factory=dict)
    """Of steps that have more to collect, by step id."""
    opened: dict[str, OpenedFiles] = field(default_factory=dict)
    """What is still to be copied, by step id; its descriptors are closed by whoever takes it out."""
    was_held: bool = False
    """The kernel held the crashed process, or still does."""
    continues: bool = False
    """An earlier run began the incident, and was cut off."""
    ended_before: frozenset[str] = frozenset()
    """The steps that had ended in that run."""
    begun: dict[str, StepStatus | None] = field(default_factory=dict)
    """The steps that were begun, by id; how each ended, or ``None`` while it has not."""

    def __post_init__(self) -> None:
        self.deadline_s = self.start_s + self.pipeline.timeout_s

    @property
    def id(self) -> str:
        return self.header.id

    @property
    def archive(self) -> str:
        return self.settings.archive

    def close(self) -> None:
        """Release the lock, and what was opened."""
        while self.opened:
            os.close(self.opened.popitem()[1].fd)
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1

    def remaining_steps(self) -> list[Step]:
        """
        Return the steps that have not ended, and those left out whose conditions are met by what is known by now.

        A long dump is announced without its signal, and its light evidence is read at once: the exit or the core, which
        name it, come later.
        """
        ended, marker = {end.id for end in self.ends} | self.ended_before, merge(self.markers())
        met = (step for step, _ in self.pipeline.left_out if step.when.holds(marker) is None)
        return [step for step in (*self.pipeline.steps, *met) if step.id not in ended]

    def out_of_time(self) -> str:
        """Return why no further step may begin, or an empty string."""
        if self.pool.stopping:
            return STOPPED
        return OUT_OF_TIME if time.monotonic() >= self.deadline_s else ""

    def writing_deadline_s(self) -> float:
        """Return the monotonic deadline for saving evidence: the incident's, or later: a busy disk is only slow."""
        return max(self.deadline_s, time.monotonic() + ARCHIVE_JOB_S)

    def perform(
        self, job: Job, deadline_s: Callable[[], float], *, claim: Claim | None = None, fds: Sequence[int] = ()
    ) -> Task[JobResult]:
        """Run a job that may safely be repeated: it is, once, if its worker dies."""
        for _ in range(2):
            if claim is None or claim.worker is None:
                yield from ensure_worker(self.pool, self.sampler)
            result = yield from self.pool.perform(job, deadline_s=deadline_s(), claim=claim, fds=fds)
            if not result.died:
                break
        return result

    def record(self, job: Job) -> Task[Done]:
        """Run a job that only writes the archive's own records."""
        return (yield from self.perform(job, lambda: time.monotonic() + ARCHIVE_JOB_S)).done

    def report_finished(self, end: StepEnd, *parts: Done | Written | None) -> None:
        """Report that a step has ended, with the sum of what its *parts* wrote."""
        self.report(
            events.StepFinished(
                incident=self.id,
                end=end,
                artifacts=sum(part.artifacts for part in parts if part),
                size_bytes=sum(part.size_bytes for part in parts if part),
            )
        )


def step_end(step: Step, done: Done, verdict: Verdict, *, started_s: float, start_s: float) -> StepEnd:
    """Return how *step* ended, which began at *started_s* since the epoch; this part of it at *start_s*, monotonic."""
    return StepEnd(
        id=step.id,
        collector=step.collector.name,
        status=done.status,
        reason=done.reason,
        hint=done.hint,
        started_s=started_s,
        duration_s=round(time.monotonic() - start_s, 6),
        verdict=verdict,
        speed_changes=done.speed_changes,
        more_changes=done.more_changes,
    )
