"""
The light phase of an incident: read first, write later.

All light steps are read in the first moments, before anything waits and before the incident has a directory: beside a
`cp` that saturates the archive's disk they take 20 ms to read, and seconds to write.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence

import msgspec

from collector.host.held_process import HeldProcess
from collector.model.artifact import HeldUse
from collector.model.case import merge
from collector.model.incident import StepEnd, StepStatus
from collector.model.pressure import Decision
from collector.pipeline.steps import Step
from collector.pressure.gate import decide
from collector.runner import events
from collector.runner.awaited_core import is_awaited, needs_core
from collector.runner.coroutine import Task
from collector.runner.held_job import fds_of, held_job
from collector.runner.incident_run import OUT_OF_TIME, EarlyPart, IncidentRun, OpenedFiles, step_end
from collector.runner.light_job import READ, with_losses
from collector.runner.pool import Claim, ensure_worker
from collector.runner.protocol import HeldJob, Job, Opened, OpenFiles, ReadStep, WriteSpool
from collector.runner.replies import Done
from collector.runner.worker_process import JobResult, WorkerProcess


class LightPhase:
    """The reading of light evidence for one incident, on a worker that is reserved for it."""

    def __init__(self, run: IncidentRun) -> None:
        self._run = run
        self._claim = Claim()
        self._spooled_by: WorkerProcess | None = None
        self._read_ends: list[StepEnd] = []
        self._unfinished: dict[str, float] = {}

    def read(self, before_each: Callable[[], Task[None]]) -> Task[None]:
        """Read every light step that is not begun, each against its own deadline; *before_each*, something else."""
        run, started_s = self._run, time.monotonic()
        late = is_awaited(run)
        first = (step for step in run.pipeline.steps if step.reads_first)
        steps = [step for step in first if not (late and needs_core(step, process=True))]
        for step in steps:
            yield from before_each()
            if step.id not in run.begun:
                yield from self.read_step(step)
        yield from before_each()
        if steps:
            run.report(
                events.EvidenceRead(
                    incident=run.id,
                    steps=tuple(step.id for step in steps),
                    duration_s=round(time.monotonic() - started_s, 6),
                )
            )

    def perform(self, job: Job, fds: Sequence[int] = ()) -> Task[JobResult]:
        """Run a job that may safely be repeated, in the reserved worker."""
        return (yield from self._run.perform(job, self._run.writing_deadline_s, claim=self._claim, fds=fds))

    def write(self) -> Task[Done]:
        """Write what was read into the incident's directory, and the ends of the steps that this completes."""
        run = self._run
        if not self._read_ends and not self._claim.memories:
            self._conclude(Done())
            return Done()
        job = WriteSpool(
            archive=run.archive,
            incident=run.id,
            ends=tuple(self._read_ends),
            reserve_bytes=run.reserve_bytes,
            copy=run.settings.copy,
        )
        done = (yield from self.perform(job, fds=self._claim.memories)).done
        self._conclude(done)
        return done

    def is_left(self, step: Step) -> bool:
        """Return whether a step has more to read than what was read here."""
        return step.id in self._unfinished

    def close(self) -> None:
        """Return the worker and its memory to the pool."""
        self._run.pool.release_claim(self._claim)

    def read_step(self, step: Step, held: HeldProcess | None = None) -> Task[None]:
        """Read one step; what it needs of *held* comes with it."""
        run = self._run
        run.begun[step.id] = None
        verdict = decide(run.sampler.sample(), budget=step.reading_budget, limits=step.limits)
        started_s, start_s = time.time(), time.monotonic()
        if start_s >= run.deadline_s:
            done = Done(status=StepStatus.SKIPPED, reason=OUT_OF_TIME)
        elif verdict.decision is not Decision.PROCEED:
            done = Done(status=StepStatus.SKIPPED, reason=verdict.reason)
        else:
            deadlines = [start_s + step.reading_timeout_s, run.deadline_s, *([held.deadline_s] if held else [])]
            done = yield from self._read_now(step, min(deadlines), held)
        if done.rest or not (step.is_light or done.status in READ or (held and step.held is HeldUse.DUMP)):
            self._unfinished[step.id] = started_s  # bulk gets its turn, whatever became of its early part
        else:
            run.begun[step.id] = done.status
            self._read_ends.append(step_end(step, done, verdict, started_s=started_s, start_s=start_s))

    def _read_now(self, step: Step, deadline_s: float, held: HeldProcess | None) -> Task[Done]:
        if self._claim.worker is None:
            yield from ensure_worker(self._run.pool, self._run.sampler)
            self._run.pool.serve(self._claim)
        there = held_job(held)  # it may have been let go meanwhile
        if there is not None and step.held is HeldUse.OPEN:
            return (yield from self._open(step, deadline_s, there, fds_of(held)))
        worker = self._claim.worker
        if fresh := worker is not self._spooled_by:
            self._claim.hold_memory()
            self._spooled_by = worker
        job = ReadStep(
            step=step.id,
            collector=step.collector,
            marker=merge(self._run.markers()),
            deadline_s=deadline_s,
            redaction=self._run.settings.redaction,
            fresh=fresh,
            held=there,
        )
        result = yield from self._run.pool.perform(job, deadline_s=deadline_s, claim=self._claim, fds=fds_of(held))
        return result.done

    def _open(self, step: Step, deadline_s: float, held: HeldJob, held_fds: Sequence[int]) -> Task[Done]:
        """Open the step's files, for its turn to copy them; how its collector ended, it says then."""
        job = OpenFiles(
            step=step.id,
            collector=step.collector,
            marker=merge(self._run.markers()),
            deadline_s=deadline_s,
            redaction=self._run.settings.redaction,
            held=held,
        )
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as exc:
            return Done(status=StepStatus.FAILED, reason=f"its files cannot be kept open: {exc.strerror}")
        with ours, theirs:
            fds = (*held_fds, theirs.fileno())
            done = (yield from self._run.pool.perform(job, deadline_s=deadline_s, claim=self._claim, fds=fds)).done
            end = Opened(status=done.status, reason=done.reason)
            self._run.opened[step.id] = OpenedFiles(fd=ours.detach(), end=end)
        return Done(rest=True)

    def _conclude(self, done: Done) -> None:
        """Combine the results of reading and writing."""
        parts = {part.step: part for part in done.written}
        for step, started_s in self._unfinished.items():
            self._run.early_parts[step] = EarlyPart(started_s=started_s, written=parts.get(step))
        known = {end.id for end in self._run.ends}
        for read in (end for end in self._read_ends if end.id not in known):
            end = with_losses(read, done.written)
            if done.status is not StepStatus.OK:
                end = _unwritten(end, done)
            self._run.ends.append(end)
            self._run.report_finished(end, parts.get(end.id))


def _unwritten(end: StepEnd, done: Done) -> StepEnd:
    """Return the end of a step whose evidence was read but could not be written."""
    if end.status not in READ:
        return end
    reason = f"it was read, but not all of it written: {done.reason}"
    return msgspec.structs.replace(end, status=done.status, reason=reason, hint=done.hint)
