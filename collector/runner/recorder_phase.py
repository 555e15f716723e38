"""The last phase of an incident before it is sealed: the flight recorder's rows of its own seconds."""

from __future__ import annotations

from collector.model.incident import StepStatus
from collector.model.recording import STEP
from collector.runner import events
from collector.runner.coroutine import Task
from collector.runner.incident_run import IncidentRun
from collector.runner.light_job import with_losses
from collector.runner.protocol import WriteSeconds
from collector.runner.replies import Written


def archive_seconds(run: IncidentRun, since_s: float) -> Task[None]:
    """
    Write the rows from *since_s* since boot on; what cannot be written goes into how the recorder's step ended.

    Earlier rows were read when the incident began: it may take longer than the recorder goes back.
    """
    place = next((place for place, end in enumerate(run.ends) if end.id == STEP), None)
    if place is None or run.ends[place].status is StepStatus.NOT_APPLICABLE:
        return
    job = WriteSeconds(
        archive=run.archive,
        incident=run.id,
        since_s=since_s,
        reserve_bytes=run.reserve_bytes,
        copy=run.settings.copy,
    )
    done = yield from run.record(job)
    failed = Written(step=STEP, artifacts=0, size_bytes=0, status=done.status, reason=done.reason)
    run.ends[place] = with_losses(run.ends[place], done.written or (failed,))
    if done.reason:
        run.report(events.JournalFailed(incident=run.id, reason=done.reason))
