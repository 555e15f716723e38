"""
The bulk phase of an incident: the steps that remain once its light evidence is written.

First come light steps whose evidence did not fit into memory, then cached steps, then bulk; the bulk of one incident is
copied at a time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import nullcontext

import msgspec

from collector.collectors.base import names_nobody
from collector.host.held_process import HeldProcess
from collector.model.artifact import HeldUse
from collector.model.case import merge
from collector.model.incident import StepEnd, StepStatus
from collector.model.pressure import Budget, Decision, StepClass, Verdict
from collector.pipeline.steps import Step
from collector.pressure.gate import decide
from collector.runner import events
from collector.runner.awaited_core import has_memory, is_awaited, needs_core, wait_for_core
from collector.runner.bulk_turns import BulkTurns
from collector.runner.coroutine import Task, sleep
from collector.runner.held_job import fds_of, held_job
from collector.runner.incident_run import IncidentRun, step_end
from collector.runner.light_job import READ, with_losses
from collector.runner.pool import ensure_worker
from collector.runner.protocol import RecordSteps, RunStep
from collector.runner.replies import Done, Progress, Written

BACK_OFF_S = (0.25, 2.0)
"""First and longest pause between two checks of the gate by a waiting step."""

TURN_S = 0.1
"""How often an incident checks whether it is its turn to copy: usually that takes minutes."""


NOT_ITS_TURN = "another incident's files are copied first"
LATE = "it was read only now: the collector was cut off before it had read all of this"
LET_GO = "the process was let go before all of this was read"
ENDED = "the process ended before all of this was read"


def run_remaining_steps(run: IncidentRun, turns: BulkTurns) -> Task[None]:
    """
    Run the steps that have not ended: light ones, cached ones, then bulk, each in the order of the configuration file.

    A cached step for which the gate is closed comes after bulk, which must not wait with it. If a core is awaited, the
    steps that need it come last. All incidents share *turns*.
    """
    while steps := run.remaining_steps():
        for step in steps:
            if step.is_light:
                yield from run_step(run, step)
        cached = [step for step in steps if step.is_cached]
        for step in cached:
            if judge(run, step).decision is Decision.PROCEED:
                yield from run_step(run, step)
        bulk = [step for step in steps if not (step.is_light or step.is_cached)]
        late: list[Step] = []
        if is_awaited(run):
            process = has_memory(merge(run.markers()))
            late = [step for step in bulk if needs_core(step, process=process)]
        yield from _copy_in_turn(run, [step for step in bulk if step not in late], turns)
        if late:
            yield from wait_for_core(run)
            yield from _copy_in_turn(run, late, turns)
        for step in cached:
            yield from run_step(run, step)


def _copy_in_turn(run: IncidentRun, steps: Sequence[Step], turns: BulkTurns) -> Task[None]:
    """Run bulk steps once it is the incident's turn."""
    if not steps:
        return
    turns.enter(run.id, run.header.owner)
    try:
        since_s = time.monotonic()
        if not turns.is_its(run.id):
            run.report(events.StepQueued(incident=run.id, step=steps[0].id, reason=NOT_ITS_TURN))
        while not turns.is_its(run.id) and not run.pool.stopping:
            yield from sleep(TURN_S)
        run.deadline_s += time.monotonic() - since_s
        with run.pool.widened() if turns.is_beside(run.id) else nullcontext():
            for step in steps:
                yield from run_step(run, step)
    finally:
        turns.leave(run.id)


def run_step(run: IncidentRun, step: Step, held: HeldProcess | None = None) -> Task[None]:
    """Run a step that has not ended; what it needs of *held* comes with it, and the gate does not make that wait."""
    if any(end.id == step.id for end in run.ends):
        return
    run.begun[step.id] = None
    verdict = judge(run, step) if held is not None else (yield from _ask_gate(run, step))
    started_s, start_s = time.time(), time.monotonic()
    if verdict.decision is Decision.PROCEED:
        done = yield from _perform(run, step, held)
    else:
        done = Done(status=StepStatus.SKIPPED, reason=verdict.reason)
    if (opened := run.opened.pop(step.id, None)) is not None:
        os.close(opened.fd)
    run.waited_s += done.waited_s
    early = run.early_parts.get(step.id)
    end = step_end(step, done, verdict, started_s=early.started_s if early else started_s, start_s=start_s)
    written = early.written if early else None
    if written is not None:
        end = with_losses(end, (written,))
    if early and step.held is HeldUse.READ and end.status in READ and (why := _too_late(run, held, end, written)):
        reason = "; ".join(filter(None, (why, end.reason)))
        end = msgspec.structs.replace(end, status=StepStatus.TRUNCATED, reason=reason)
    if run.continues and step.is_light and end.status in READ and not _about_nobody(run, end):
        reason = "; ".join(filter(None, (LATE, end.reason)))
        end = msgspec.structs.replace(end, status=StepStatus.TRUNCATED, reason=reason)
    run.ends.append(end)
    run.begun[step.id] = end.status
    recorded = yield from run.record(RecordSteps(archive=run.archive, incident=run.id, ends=(end,)))
    if recorded.reason:
        run.report(events.JournalFailed(incident=run.id, reason=recorded.reason))
    run.report_finished(end, done, written)


def _about_nobody(run: IncidentRun, end: StepEnd) -> bool:
    return end.status is StepStatus.NOT_APPLICABLE and names_nobody(merge(run.markers()))


def _too_late(run: IncidentRun, held: HeldProcess | None, end: StepEnd, early: Written | None) -> str:
    """Return why the rest of what a step has read of the process could not be read; else, an empty string."""
    if run.was_held:
        return "" if held and held.is_held else LET_GO
    return ENDED if early and early.artifacts and end.status is StepStatus.NOT_APPLICABLE else ""


def _ask_gate(run: IncidentRun, step: Step) -> Task[Verdict]:
    """Return the gate's final verdict on a step, after any wait that it asked for."""
    since_s: float | None = None
    pause_s = BACK_OFF_S[0]
    while True:
        waited_s = run.waited_s + (0.0 if since_s is None else time.monotonic() - since_s)
        verdict = decide(
            run.sampler.sample(run.lock),
            budget=_budget(run, step),
            limits=step.limits,
            reserve_bytes=run.reserve_bytes,
            waited_s=waited_s,
            held=since_s is not None,
        )
        if verdict.decision is not Decision.WAIT or run.out_of_time():
            run.waited_s = waited_s
            return verdict
        if since_s is None:
            since_s = time.monotonic()
            run.report(events.StepWaiting(incident=run.id, step=step.id, reason=verdict.reason))
        yield from sleep(min(pause_s, max(0.0, step.limits.wait_s - waited_s)))
        pause_s = min(2 * pause_s, BACK_OFF_S[1])


def judge(run: IncidentRun, step: Step) -> Verdict:
    """Return the gate's verdict of now."""
    disk = run.lock if run.lock >= 0 else None
    return decide(
        run.sampler.sample(disk), budget=_budget(run, step), limits=step.limits, reserve_bytes=run.reserve_bytes
    )


def _budget(run: IncidentRun, step: Step) -> Budget:
    """Bulk counts as heavy on a file system without direct I/O: it goes through the page cache."""
    if step.budget.step_class is StepClass.DIRECT and not run.direct:
        return msgspec.structs.replace(step.budget, step_class=StepClass.HEAVY)
    return step.budget


def _perform(run: IncidentRun, step: Step, held: HeldProcess | None) -> Task[Done]:
    if reason := run.out_of_time():
        return Done(status=StepStatus.SKIPPED, reason=reason)
    run.report(events.StepStarted(incident=run.id, step=step.id))
    yield from ensure_worker(run.pool, run.sampler)
    there, opened = held_job(held), run.opened.get(step.id)
    deadlines = [time.monotonic() + step.timeout_s, run.deadline_s, *([there.deadline_s] if there else [])]
    deadline_s = min(deadlines)
    job = RunStep(
        archive=run.archive,
        incident=run.id,
        step=step.id,
        collector=step.collector,
        marker=merge(run.markers()),
        deadline_s=deadline_s,
        limits=step.limits,
        budget=_budget(run, step),
        reserve_bytes=run.reserve_bytes,
        kept_free_bytes=run.kept_free_bytes,
        copy=run.settings.copy,
        redaction=run.settings.redaction,
        goes_on=step.id in run.early_parts,
        waited_s=run.waited_s,
        ticks=run.sampler.ticks,
        held=there,
        opened=opened.end if opened is not None else None,
        continues=run.continues,
    )
    fds = (*fds_of(held), *((opened.fd,) if opened is not None else ()))

    def progress(known: Progress) -> None:
        run.report(events.StepProgressed(incident=run.id, step=step.id, **msgspec.structs.asdict(known)))

    result = yield from run.pool.perform(job, deadline_s=deadline_s, progress=progress, stoppable=True, fds=fds)
    return result.done
