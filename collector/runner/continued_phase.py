"""The first phase of an incident that an earlier run began: finding out what there is, and what is left to do."""

from __future__ import annotations

import dataclasses
import os
import time

from collector import __version__
from collector.archive import layout
from collector.model.incident import Continuation, StepEnd, StepStatus
from collector.model.recording import STEP
from collector.pipeline.steps import Pipeline
from collector.runner import events
from collector.runner.coroutine import Task
from collector.runner.incident_run import EarlyPart, IncidentRun
from collector.runner.protocol import Continue, RecordSteps
from collector.runner.replies import Done, Resumed

UNKNOWN = "the collector was cut off before this step ended, and the configuration in force has no step of this name"


def take_over(run: IncidentRun) -> Task[Done]:
    """Lock the incident, and set *run* to what is left of it; without a lock, the result says why."""
    run.continues = True
    job = Continue(
        archive=run.archive,
        incident=run.id,
        owner=run.header.owner,
        reserve=run.settings.reserve,
        record=Continuation(
            at_s=run.header.started_s,
            gap_s=0.0,
            collector_version=__version__,
            config_hash=run.header.config_hash,
        ),
    )
    result = yield from run.perform(job, run.writing_deadline_s)
    done, resumed = result.done, result.done.resumed
    if result.fd is None or resumed is None:
        return done
    run.lock, run.reserve_bytes, run.direct = result.fd, done.reserve_bytes, done.direct
    run.kept_free_bytes = done.kept_free_bytes
    run.pipeline = _left_of(run.pipeline, resumed)
    run.ended_before = frozenset(resumed.ended)
    now_s = time.time()
    run.early_parts = {part.step: EarlyPart(started_s=now_s, written=part) for part in resumed.begun}
    if (recorder := resumed.recorder) is not None:
        run.ends.append(recorder)  # the rows of this run are added to it
    path = os.path.join(run.archive, run.id + layout.PARTIAL)
    left_out = {step.id: step.reason for step in resumed.left_out}
    run.report(events.IncidentOpened(incident=run.id, path=path, steps=resumed.planned, left_out=left_out))
    return (yield from _record_unknown(run, resumed))


def _left_of(pipeline: Pipeline, resumed: Resumed) -> Pipeline:
    """Return the steps that were planned, as the configuration in force has them."""
    reasons = {step.id: step.reason for step in resumed.left_out}
    return dataclasses.replace(
        pipeline,
        steps=tuple(step for step in pipeline.steps if step.id in resumed.planned),
        left_out=tuple((step, reasons[step.id]) for step in pipeline.steps if step.id in reasons),
    )


def _record_unknown(run: IncidentRun, resumed: Resumed) -> Task[Done]:
    """Record the end of planned steps that do not exist any more."""
    known = {step.id for step in run.pipeline.steps} | run.ended_before | {STEP}
    ends = tuple(
        StepEnd(id=step, collector="", status=StepStatus.FAILED, reason=UNKNOWN)
        for step in resumed.planned
        if step not in known
    )
    run.ends.extend(ends)
    if not ends:
        return Done()
    return (yield from run.record(RecordSteps(archive=run.archive, incident=run.id, ends=ends)))
