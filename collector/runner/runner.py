"""
The runner: the straight line from an admitted marker to an archived incident.

It decides and waits; every byte is read and written by a worker. Light evidence is read at once and beside other
incidents; what remains is bulk, and of that one incident has its turn after the other.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable

import msgspec

from collector.model.case import merge
from collector.model.incident import Header, StepEnd, StepStatus
from collector.model.marker import Marker
from collector.model.pressure import Budget, Decision, StepClass, Verdict
from collector.pipeline.run_types import RunOutcome, RunSettings
from collector.pipeline.steps import Pipeline, Step
from collector.pressure.gate import decide
from collector.pressure.sampler import Sampler
from collector.runner import events
from collector.runner.coroutine import Task, sleep
from collector.runner.light_job import with_losses
from collector.runner.light_phase import OUT_OF_TIME, LightPhase
from collector.runner.pool import Pool, Result
from collector.runner.protocol import Begin, Done, Job, Record, Recover, RunStep, Seal
from collector.runner.spare import have_worker

ARCHIVE_JOB_S = 60.0
"""Deadline of a job that only writes the archive's own records."""

BACK_OFF_S = (0.25, 2.0)
"""First and longest pause between two looks of a waiting step."""

TURN_S = 0.1
"""How often an incident looks whether it is its turn to copy: that comes after minutes, as a rule."""

STOPPED = "the collector was stopped"


class Runner:
    """
    Runs incidents: the light evidence of several at once, the bulk of one at a time.

    Args:
        pool: Warm workers.
        sampler: Pre-opened pressure files.
        tell: Receives every event.
    """

    def __init__(self, pool: Pool, sampler: Sampler, tell: Callable[[events.AnyEvent], None]) -> None:
        self._pool = pool
        self._sampler = sampler
        self._tell = tell
        self._turns: deque[str] = deque()
        """Ids of the incidents that have bulk to copy; it is the first one's turn."""

    def incident(
        self,
        header: Header,
        pipeline: Pipeline,
        settings: RunSettings,
        markers: Callable[[], tuple[Marker, ...]] | None = None,
    ) -> Task[RunOutcome]:
        """
        Collect everything that *pipeline* lists and archive it.

        Args:
            header: The incident's id, markers and circumstances.
            pipeline: The steps to run.
            settings: What the configuration says.
            markers: Returns the markers known by now: more of the same crash may arrive meanwhile.
        """
        run = _Run(self, header, pipeline, settings, markers or (lambda: header.markers))
        return (yield from run.line())


class _Run:
    """One incident under way."""

    def __init__(
        self,
        runner: Runner,
        header: Header,
        pipeline: Pipeline,
        settings: RunSettings,
        markers: Callable[[], tuple[Marker, ...]],
    ) -> None:
        self._pool = runner._pool
        self._sampler = runner._sampler
        self._tell = runner._tell
        self._turns = runner._turns
        self._header = header
        self._pipeline = pipeline
        self._settings = settings
        self._markers = markers
        self._start_s = time.monotonic()
        self._deadline_s = self._start_s + pipeline.timeout_s
        self._waited_s = 0.0
        self._reserve_bytes = 0
        self._direct = True
        self._lock = -1
        self._ends: list[StepEnd] = []
        self._light = LightPhase(
            self._pool,
            self._sampler,
            header.id,
            steps=pipeline.steps,
            settings=settings,
            markers=markers,
            tell=self._tell,
        )

    def line(self) -> Task[RunOutcome]:
        try:
            yield from self._light.read(self._deadline_s)
            begun = yield from self._begin()
            if begun.fd is not None:
                yield from self._write_light()
        finally:
            self._light.close()
        if begun.fd is None:
            return self._ended((yield from self._rescue(begun.done)))
        try:
            yield from self._steps()
            done = yield from self._seal()
        finally:
            os.close(self._lock)
        return self._ended(done if done.state is not None else (yield from self._rescue(done)))

    def _begin(self) -> Task[Result]:
        """Open the incident: on a disk that others saturate its syncs may take many seconds."""
        job = Begin(archive=self._settings.archive, header=self._header, reserve=self._settings.reserve)
        for _ in range(2):
            begun = yield from self._light.perform(job, self._writing_deadline_s())
            if not begun.died:
                break
        if begun.fd is None:
            return begun
        self._lock, self._reserve_bytes, self._direct = begun.fd, begun.done.reserve_bytes, begun.done.direct
        for incident in begun.done.ids:
            self._tell(events.IncidentPruned(incident=incident, reason="the disk had no room for a new incident"))
        self._tell(
            events.IncidentOpened(incident=self._header.id, path=self._path(".partial"), steps=self._header.planned)
        )
        return begun

    def _write_light(self) -> Task[None]:
        done = yield from self._light.write(self._reserve_bytes, self._writing_deadline_s())
        self._ends += self._light.ends
        if done.status is not StepStatus.OK:
            self._tell(events.JournalFailed(incident=self._header.id, reason=done.reason))

    def _steps(self) -> Task[None]:
        """Run what is left: what of the light steps did not fit into memory, then bulk, in the order of the file."""
        ended = {end.id for end in self._ends}
        left = [step for step in self._pipeline.steps if step.id not in ended]
        bulk = [step for step in left if not step.is_light]
        for step in left:
            if step.is_light:
                yield from self._step(step)
        if not bulk:
            return
        self._turns.append(self._header.id)
        try:
            yield from self._turn()
            for step in bulk:
                yield from self._step(step)
        finally:
            self._turns.remove(self._header.id)

    def _turn(self) -> Task[None]:
        """Wait until earlier incidents have copied their bulk; that time is not this incident's own."""
        since_s = time.monotonic()
        while self._turns[0] != self._header.id and not self._pool.stopping:
            yield from sleep(TURN_S)
        self._deadline_s += time.monotonic() - since_s

    def _step(self, step: Step) -> Task[None]:
        verdict = yield from self._ask(step)
        head = self._light.heads.get(step.id)
        started_s, start_s = time.time(), time.monotonic()
        if verdict.decision is Decision.PROCEED:
            done = yield from self._run(step)
        else:
            done = Done(status=StepStatus.SKIPPED, reason=verdict.reason)
        self._waited_s += done.waited_s
        end = StepEnd(
            id=step.id,
            collector=step.collector.name,
            status=done.status,
            reason=done.reason,
            hint=done.hint,
            started_s=head.started_s if head else started_s,
            duration_s=round(time.monotonic() - start_s, 6),
            verdict=verdict,
            speed_changes=done.speed_changes,
            more_changes=done.more_changes,
        )
        part = head.written if head else None
        if part is not None:
            end = with_losses(end, (part,))
        self._ends.append(end)
        kept = yield from self._record(Record(archive=self._settings.archive, incident=self._header.id, ends=(end,)))
        if kept.done.reason:
            self._tell(events.JournalFailed(incident=self._header.id, reason=kept.done.reason))
        self._tell(
            events.StepFinished(
                incident=self._header.id,
                end=end,
                artifacts=done.artifacts + (part.artifacts if part else 0),
                size_bytes=done.size_bytes + (part.size_bytes if part else 0),
            )
        )

    def _ask(self, step: Step) -> Task[Verdict]:
        """Return the gate's last word on a step, after what it let it wait: all waits of an incident are one budget."""
        since_s: float | None = None
        pause_s = BACK_OFF_S[0]
        while True:
            waited_s = self._waited_s + (0.0 if since_s is None else time.monotonic() - since_s)
            verdict = decide(
                self._sampler.sample(self._lock),
                budget=self._budget(step),
                limits=step.limits,
                reserve_bytes=self._reserve_bytes,
                waited_s=waited_s,
                held=since_s is not None,
            )
            if verdict.decision is not Decision.WAIT or self._out_of_time():
                self._waited_s = waited_s
                return verdict
            if since_s is None:
                since_s = time.monotonic()
                self._tell(events.StepWaiting(incident=self._header.id, step=step.id, reason=verdict.reason))
            yield from sleep(min(pause_s, max(0.0, step.limits.wait_s - waited_s)))
            pause_s = min(2 * pause_s, BACK_OFF_S[1])

    def _budget(self, step: Step) -> Budget:
        """Bulk on a file system that takes no direct writes goes through the page cache: that is heavy."""
        if step.budget.step_class is StepClass.DIRECT and not self._direct:
            return msgspec.structs.replace(step.budget, step_class=StepClass.HEAVY)
        return step.budget

    def _run(self, step: Step) -> Task[Done]:
        if reason := self._out_of_time():
            return Done(status=StepStatus.SKIPPED, reason=reason)
        self._tell(events.StepStarted(incident=self._header.id, step=step.id))
        yield from have_worker(self._pool, self._sampler)
        deadline_s = min(time.monotonic() + step.timeout_s, self._deadline_s)
        result = yield from self._pool.perform(
            RunStep(
                archive=self._settings.archive,
                incident=self._header.id,
                step=step.id,
                collector=step.collector,
                marker=merge(self._markers()),
                deadline_s=deadline_s,
                limits=step.limits,
                budget=self._budget(step),
                reserve_bytes=self._reserve_bytes,
                copy=self._settings.copy,
                redaction=self._settings.redaction,
                goes_on=step.id in self._light.heads,
                waited_s=self._waited_s,
                ticks=self._sampler.ticks,
            ),
            deadline_s=deadline_s,
            progress=lambda size: self._tell(
                events.StepProgressed(incident=self._header.id, step=step.id, size_bytes=size)
            ),
            stoppable=True,
        )
        return result.done

    def _record(self, job: Job) -> Task[Result]:
        """Have the archive's own records written; all these jobs can be done twice, should a worker die in one."""
        for _ in range(2):
            yield from have_worker(self._pool, self._sampler)
            result = yield from self._pool.perform(job, deadline_s=time.monotonic() + ARCHIVE_JOB_S)
            if not result.died:
                break
        return result

    def _seal(self) -> Task[Done]:
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

    def _ended(self, done: Done) -> RunOutcome:
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
        return RunOutcome(incident=self._header.id, state=done.state, size_bytes=done.size_bytes, reason=done.reason)

    def _rescue(self, failed: Done) -> Task[Done]:
        """Seal what can be sealed of an incident whose last job failed, as the next start would."""
        if failed.status is not StepStatus.FAILED:
            return failed  # the disk does not even answer: the next start finds it
        recovered = yield from self._record(Recover(archive=self._settings.archive, now_s=time.time()))
        state = recovered.done.sealed.get(self._header.id)
        return Done(state=state, reason=failed.reason) if state else failed

    def _refused(self, done: Done) -> RunOutcome:
        exit_code = done.exit_code or 73
        self._tell(
            events.IncidentRefused(incident=self._header.id, reason=done.reason, exit_code=exit_code, hint=done.hint)
        )
        return RunOutcome(incident=None, exit_code=exit_code, reason=done.reason, hint=done.hint)

    def _out_of_time(self) -> str:
        if self._pool.stopping:
            return STOPPED
        return OUT_OF_TIME if time.monotonic() >= self._deadline_s else ""

    def _writing_deadline_s(self) -> float:
        """The incident's own: a disk that others saturate costs time, not evidence. Past it, some to save the rest."""
        return max(self._deadline_s, time.monotonic() + ARCHIVE_JOB_S)

    def _path(self, suffix: str = "") -> str:
        return os.path.join(self._settings.archive, self._header.id + suffix)
