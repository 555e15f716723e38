"""
The runner: one coroutine from an admitted marker to an archived incident.

It decides and waits; workers read and write every byte. Light evidence is read immediately and beside other incidents;
what remains is bulk, which incidents copy in turn.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing

import msgspec

from collector.archive import layout
from collector.host.clock import boot_s
from collector.host.held_process import HeldProcess
from collector.model.incident import HoldRecord, IncidentHeader, StepStatus
from collector.model.marker import Marker
from collector.pipeline.generation import RunSettings
from collector.pipeline.steps import Pipeline
from collector.pressure.sampler import Sampler
from collector.runner import events
from collector.runner.bulk_phase import run_remaining_steps
from collector.runner.bulk_turns import BulkTurns
from collector.runner.continued_phase import take_over
from collector.runner.coroutine import Task
from collector.runner.held_phase import HeldPhase
from collector.runner.incident_run import IncidentRun
from collector.runner.light_phase import LightPhase
from collector.runner.pool import Pool
from collector.runner.protocol import Begin, Recover, Seal
from collector.runner.recorder_phase import archive_seconds
from collector.runner.replies import Done


class Runner:
    """
    Runs incidents: the light evidence of several at a time, the bulk of one.

    Args:
        report: Receives all events.
        mark: Has the flight recorder write a row: called when an incident begins, and before it is sealed.
    """

    def __init__(
        self,
        pool: Pool,
        sampler: Sampler,
        report: Callable[[events.AnyEvent], None],
        mark: Callable[[], None] = lambda: None,
    ) -> None:
        self._pool = pool
        self._sampler = sampler
        self._report = report
        self._mark = mark
        self._turns = BulkTurns()
        self._dumps = BulkTurns()

    def incident(
        self,
        header: IncidentHeader,
        pipeline: Pipeline,
        settings: RunSettings,
        markers: Callable[[], tuple[Marker, ...]] | None = None,
        held: Callable[[], HeldProcess | None] = lambda: None,
        *,
        continues: bool = False,
    ) -> Task[Done]:
        """
        Collect everything that *pipeline* lists and archive it; for the arguments, see `IncidentRun`.

        With *continues*, an earlier run of this boot began the incident of that id, and was cut off: what is left of it
        is collected.

        Returns:
            How it ended; its *incident* is ``None`` if nothing was archived, and *exit_code* and *reason* say why.
        """
        run = IncidentRun(
            pool=self._pool,
            sampler=self._sampler,
            report=self._report,
            header=header,
            pipeline=pipeline,
            settings=settings,
            markers=markers or (lambda: header.markers),
            held=held,
        )
        with closing(run):
            done = yield from (self._continue(run) if continues else self._collect(run))
        if done.state is None:
            done = yield from _rescue(run, done)
        return _ended(run, done)

    def _collect(self, run: IncidentRun) -> Task[Done]:
        since_s = boot_s()
        self._mark()
        with closing(HeldPhase(run, self._dumps)) as held:
            with closing(LightPhase(run)) as light:
                yield from light.read(lambda: held.take(light))
                begun = yield from held.beside(_begin(run, light))
                if run.lock < 0:
                    return begun
                written = yield from held.beside(light.write())
                if written.status is not StepStatus.OK:
                    run.report(events.JournalFailed(incident=run.id, reason=written.reason))
            yield from held.receive()
            yield from held.beside(run_remaining_steps(run, self._turns))
        return (yield from self._end(run, since_s, held.record()))

    def _continue(self, run: IncidentRun) -> Task[Done]:
        since_s = boot_s()
        self._mark()
        done = yield from take_over(run)
        if run.lock < 0:
            return done
        yield from run_remaining_steps(run, self._turns)
        return (yield from self._end(run, since_s, None))

    def _end(self, run: IncidentRun, since_s: float, hold: HoldRecord | None) -> Task[Done]:
        """Add the recorder's rows from *since_s* since boot on, and seal."""
        self._mark()
        yield from archive_seconds(run, since_s)
        job = Seal(
            archive=run.archive,
            incident=run.id,
            # By the clock as it was at the start: one that is set meanwhile makes no incident shorter or longer.
            ended_s=run.header.started_s + time.monotonic() - run.start_s,
            interrupted=self._pool.stopping,
            markers=run.markers(),
            ends=tuple(run.ends),
            hold=hold,
        )
        return (yield from run.record(job))


def _begin(run: IncidentRun, light: LightPhase) -> Task[Done]:
    """Open the incident: on a disk that others saturate, its syncs may take many seconds."""
    job = Begin(
        archive=run.archive,
        header=run.header,
        reserve=run.settings.reserve,
        keep=run.settings.keep,
        hands_over=run.settings.hands_over,
    )
    begun = yield from light.perform(job)
    if begun.fd is not None:
        run.lock, run.reserve_bytes, run.direct = begun.fd, begun.done.reserve_bytes, begun.done.direct
        run.kept_free_bytes = begun.done.kept_free_bytes
        reason = "archive.keep, and the disk had no room for a new incident"
        for incident in begun.done.ids:
            unsent = "; it was not handed over" if incident in begun.done.unsent else ""
            run.report(events.IncidentPruned(incident=incident, reason=reason + unsent))
        path = os.path.join(run.archive, run.id + layout.PARTIAL)
        left_out = {step.id: step.reason for step in run.header.left_out}
        run.report(
            events.IncidentOpened(
                incident=run.id,
                path=path,
                steps=run.header.planned,
                left_out=left_out,
                over_budget=run.header.over_budget,
            )
        )
    return begun.done


def _rescue(run: IncidentRun, failed: Done) -> Task[Done]:
    """Seal what can be sealed of an incident whose last job failed, as the next start would."""
    if failed.status is not StepStatus.FAILED:
        return failed  # the disk does not even answer: left to the next start
    recovered = yield from run.record(Recover(archive=run.archive, now_s=time.time(), only=run.id))
    state = recovered.sealed.get(run.id)
    return Done(state=state, reason=failed.reason) if state else failed


def _ended(run: IncidentRun, done: Done) -> Done:
    if done.state is None:
        exit_code = done.exit_code or 73
        run.report(events.IncidentRefused(incident=run.id, reason=done.reason, exit_code=exit_code, hint=done.hint))
        return msgspec.structs.replace(done, incident=None, exit_code=exit_code)
    run.report(
        events.IncidentArchived(
            incident=run.id,
            path=os.path.join(run.archive, run.id),
            state=done.state,
            artifacts=done.artifacts,
            size_bytes=done.size_bytes,
            duration_s=round(time.monotonic() - run.start_s, 6),
            reason=done.reason,
        )
    )
    return msgspec.structs.replace(done, incident=run.id)
