"""
The runner: the straight line from an admitted marker to an archived incident.

It decides and waits; every byte is read and written by a worker.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from collector.model.case import merge
from collector.model.incident import Header, StepEnd, StepStatus
from collector.model.marker import Marker
from collector.model.pressure import Decision, Verdict
from collector.pipeline import events
from collector.pipeline.line import Line, sleep
from collector.pipeline.pool import Pool, Result
from collector.pipeline.protocol import Begin, Done, Job, Record, Recover, RunStep, Seal
from collector.pipeline.spare import have_worker
from collector.pipeline.steps import Pipeline, Step
from collector.pipeline.terms import Outcome, Settings
from collector.pressure.gate import decide
from collector.pressure.sampler import Sampler

ARCHIVE_JOB_S = 60.0
"""Deadline of a job that only writes the archive's own records."""

BASELINE_S = 1.0
"""Reclaim counters are compared over so long at least: two looks at once would never see them rise."""

BACK_OFF_S = (0.25, 2.0)
"""First and longest pause between two looks of a waiting step."""

STOPPED = "the collector was stopped"


class Runner:
    """
    Runs incidents, one at a time.

    Args:
        pool: Warm workers.
        sampler: Pre-opened pressure files.
        tell: Receives every event.
    """

    def __init__(self, pool: Pool, sampler: Sampler, tell: Callable[[events.AnyEvent], None]) -> None:
        self._pool = pool
        self._sampler = sampler
        self._tell = tell
        self.running: str | None = None
        """The id of the incident under way."""

    def incident(
        self,
        header: Header,
        pipeline: Pipeline,
        settings: Settings,
        markers: Callable[[], tuple[Marker, ...]] | None = None,
    ) -> Line[Outcome]:
        """
        Collect everything that *pipeline* lists and archive it.

        Args:
            header: The incident's id, markers and circumstances.
            pipeline: The steps to run.
            settings: What the configuration says.
            markers: Returns the markers known by now: more of the same crash may arrive meanwhile.
        """
        run = _Run(self, header, pipeline, settings, markers or (lambda: header.markers))
        self.running = header.id
        try:
            return (yield from run.line())
        finally:
            self.running = None


class _Run:
    """One incident under way."""

    def __init__(
        self,
        runner: Runner,
        header: Header,
        pipeline: Pipeline,
        settings: Settings,
        markers: Callable[[], tuple[Marker, ...]],
    ) -> None:
        self._pool = runner._pool
        self._sampler = runner._sampler
        self._tell = runner._tell
        self._header = header
        self._pipeline = pipeline
        self._settings = settings
        self._markers = markers
        self._start_s = time.monotonic()
        self._deadline_s = self._start_s + pipeline.timeout_s
        self._sample = self._baseline = runner._sampler.sample()
        self._reserve_bytes = 0
        self._lock = -1
        self._ends: list[StepEnd] = []

    def line(self) -> Line[Outcome]:
        begun = yield from self._record(
            Begin(archive=self._settings.archive, header=self._header, reserve=self._settings.reserve)
        )
        if begun.fd is None:
            return self._ended((yield from self._rescue(begun.done)))
        self._lock, self._reserve_bytes = begun.fd, begun.done.reserve_bytes
        for incident in begun.done.ids:
            self._tell(events.IncidentPruned(incident=incident, reason="the disk had no room for a new incident"))
        try:
            self._tell(
                events.IncidentOpened(incident=self._header.id, path=self._path(".partial"), steps=self._header.planned)
            )
            yield from self._steps()
            done = yield from self._seal()
        finally:
            os.close(self._lock)
        return self._ended(done if done.state is not None else (yield from self._rescue(done)))

    def _steps(self) -> Line[None]:
        pending = list(self._pipeline.steps)
        while pending:
            step, verdict = yield from self._next(pending)
            pending.remove(step)
            started_s, start_s = time.time(), time.monotonic()
            if verdict.decision is Decision.PROCEED:
                done = yield from self._run(step)
            else:
                done = Done(status=StepStatus.SKIPPED, reason=verdict.reason)
            end = StepEnd(
                id=step.id,
                collector=step.collector.name,
                status=done.status,
                reason=done.reason,
                hint=done.hint,
                started_s=started_s,
                duration_s=round(time.monotonic() - start_s, 6),
                verdict=verdict,
            )
            self._ends.append(end)
            kept = yield from self._record(Record(archive=self._settings.archive, incident=self._header.id, end=end))
            if kept.done.reason:
                self._tell(events.JournalFailed(incident=self._header.id, reason=kept.done.reason))
            self._tell(
                events.StepFinished(
                    incident=self._header.id, end=end, artifacts=done.artifacts, size_bytes=done.size_bytes
                )
            )

    def _next(self, pending: list[Step]) -> Line[tuple[Step, Verdict]]:
        """Return the first step that may run, or that will not: waits while the gate says so."""
        first, since_s, pause_s = pending[0], time.monotonic(), BACK_OFF_S[0]
        told = False
        while True:
            self._look()
            waited_s = time.monotonic() - since_s if told else 0.0
            verdict = self._ask(first, waited_s)
            if verdict.decision is not Decision.WAIT or self._out_of_time():
                return first, verdict
            if not told:
                told = True
                self._tell(events.StepWaiting(incident=self._header.id, step=first.id, reason=verdict.reason))
            if smaller := self._smaller(pending):
                return smaller
            yield from sleep(min(pause_s, max(0.0, first.limits.wait_s - waited_s)))
            pause_s = min(2 * pause_s, BACK_OFF_S[1])

    def _smaller(self, pending: list[Step]) -> tuple[Step, Verdict] | None:
        """Return a later step that the gate lets through while the first one waits."""
        if self._pipeline.let_smaller_first:
            for step in pending[1:]:
                if step.budget.memory_bytes < pending[0].budget.memory_bytes:
                    verdict = self._ask(step, 0.0)
                    if verdict.decision is Decision.PROCEED:
                        return step, verdict
        return None

    def _look(self) -> None:
        """Take a sample; the one before stays the reclaim counters' baseline until it is `BASELINE_S` old."""
        if self._sample.taken_s - self._baseline.taken_s >= BASELINE_S:
            self._baseline = self._sample
        self._sample = self._sampler.sample(self._lock)

    def _ask(self, step: Step, waited_s: float) -> Verdict:
        return decide(
            self._sample,
            self._baseline,
            budget=step.budget,
            limits=step.limits,
            reserve_bytes=self._reserve_bytes,
            waited_s=waited_s,
        )

    def _run(self, step: Step) -> Line[Done]:
        if reason := self._out_of_time():
            return Done(status=StepStatus.SKIPPED, reason=reason)
        self._tell(events.StepStarted(incident=self._header.id, step=step.id))
        deadline_s = min(time.monotonic() + step.timeout_s, self._deadline_s)
        yield from have_worker(self._pool, self._sampler)
        result = yield from self._pool.perform(
            RunStep(
                archive=self._settings.archive,
                incident=self._header.id,
                step=step.id,
                collector=step.collector,
                marker=merge(self._markers()),
                deadline_s=deadline_s,
                limits=step.limits,
                budget=step.budget,
                reserve_bytes=self._reserve_bytes,
                copy=self._settings.copy,
                redaction=self._settings.redaction,
            ),
            deadline_s=deadline_s,
            progress=lambda size: self._tell(
                events.StepProgressed(incident=self._header.id, step=step.id, size_bytes=size)
            ),
            stoppable=True,
        )
        return result.done

    def _record(self, job: Job) -> Line[Result]:
        """Have the archive's own records written; all these jobs can be done twice, should a worker die in one."""
        for _ in range(2):
            yield from have_worker(self._pool, self._sampler)
            result = yield from self._pool.perform(job, deadline_s=time.monotonic() + ARCHIVE_JOB_S)
            if not result.died:
                break
        return result

    def _seal(self) -> Line[Done]:
        result = yield from self._record(
            Seal(
                archive=self._settings.archive,
                incident=self._header.id,
                ended_s=time.time(),
                interrupted=self._pool.stopping,
                markers=self._markers(),
                ends=tuple(self._ends),
            )
        )
        return result.done

    def _ended(self, done: Done) -> Outcome:
        if done.state is None:
            return self._refused(done)
        self._tell(
            events.IncidentArchived(
                incident=self._header.id,
                path=self._path(),
                state=done.state,
                artifacts=done.artifacts,
                size_bytes=done.size_bytes,
                duration_s=round(time.monotonic() - self._start_s, 6),
                reason=done.reason,
            )
        )
        return Outcome(incident=self._header.id, state=done.state, size_bytes=done.size_bytes, reason=done.reason)

    def _rescue(self, failed: Done) -> Line[Done]:
        """Seal what can be sealed of an incident whose last job failed, as the next start would."""
        if failed.status is not StepStatus.FAILED:
            return failed  # the disk does not even answer: the next start finds it
        recovered = yield from self._record(Recover(archive=self._settings.archive, now_s=time.time()))
        state = recovered.done.sealed.get(self._header.id)
        return Done(state=state, reason=failed.reason) if state else failed

    def _refused(self, done: Done) -> Outcome:
        exit_code = done.exit_code or 73
        self._tell(
            events.IncidentRefused(incident=self._header.id, reason=done.reason, exit_code=exit_code, hint=done.hint)
        )
        return Outcome(incident=None, exit_code=exit_code, reason=done.reason, hint=done.hint)

    def _out_of_time(self) -> str:
        if self._pool.stopping:
            return STOPPED
        return "the incident's time was up" if time.monotonic() >= self._deadline_s else ""

    def _path(self, suffix: str = "") -> str:
        return os.path.join(self._settings.archive, self._header.id + suffix)
