"""
The light phase of an incident: read first, write later.

All light steps are read in the first moments, before anything waits and before the incident has a directory: beside a
`cp` that saturates the archive's disk they take 20 ms to read, and seconds to write.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from collector.model.case import merge
from collector.model.incident import StepEnd, StepStatus
from collector.model.pressure import Decision
from collector.pipeline.steps import Step
from collector.pressure.gate import decide
from collector.runner import events
from collector.runner.awaited_core import is_awaited, needs_core
from collector.runner.coroutine import Task
from collector.runner.incident_run import OUT_OF_TIME, EarlyPart, IncidentRun, step_end
from collector.runner.light_job import READ, with_losses
from collector.runner.pool import Claim, ensure_worker
from collector.runner.protocol import Done, Job, ReadStep, WriteSpool
from collector.runner.worker_process import JobResult, WorkerProcess


class LightPhase:
    """The first part of one incident: its light steps, on a worker that is reserved for them."""

    def __init__(self, run: IncidentRun) -> None:
        self._run = run
        late = is_awaited(run)
        first = (step for step in run.pipeline.steps if step.reads_first)
        self._steps = [step for step in first if not (late and needs_core(step, process=True))]
        self._claim = Claim()
        self._spooled_by: WorkerProcess | None = None
        self._read_ends: list[StepEnd] = []
        self._unfinished: dict[str, float] = {}

    def read(self) -> Task[None]:
        """Read every light step, each against its own deadline."""
        started_s = time.monotonic()
        for step in self._steps:
            yield from self._read(step)
        if self._steps:
            self._run.report(
                events.EvidenceRead(
                    incident=self._run.id,
                    steps=tuple(step.id for step in self._steps),
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

    def close(self) -> None:
        """Return the worker and its memory to the pool."""
        self._run.pool.release_claim(self._claim)

    def _read(self, step: Step) -> Task[None]:
        verdict = decide(self._run.sampler.sample(), budget=step.reading_budget, limits=step.limits)
        started_s, start_s = time.time(), time.monotonic()
        if start_s >= self._run.deadline_s:
            done = Done(status=StepStatus.SKIPPED, reason=OUT_OF_TIME)
        elif verdict.decision is Decision.PROCEED:
            done = yield from self._read_now(step, min(start_s + step.reading_timeout_s, self._run.deadline_s))
        else:
            done = Done(status=StepStatus.SKIPPED, reason=verdict.reason)
        if done.rest or not (step.is_light or done.status in READ):
            self._unfinished[step.id] = started_s  # bulk gets its turn, whatever became of its early part
        else:
            self._read_ends.append(step_end(step, done, verdict, started_s=started_s, start_s=start_s))

    def _read_now(self, step: Step, deadline_s: float) -> Task[Done]:
        if self._claim.worker is None:
            yield from ensure_worker(self._run.pool, self._run.sampler)
            self._run.pool.serve(self._claim)
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
        )
        return (yield from self._run.pool.perform(job, deadline_s=deadline_s, claim=self._claim)).done

    def _conclude(self, done: Done) -> None:
        """Combine the results of reading and writing."""
        parts = {part.step: part for part in done.written}
        self._run.early_parts = {
            step: EarlyPart(started_s=started_s, written=parts.get(step))
            for step, started_s in self._unfinished.items()
        }
        for read in self._read_ends:
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
