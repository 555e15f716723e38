"""
The light phase of an incident: read first, write later.

All light steps are read within the first moments, before anything waits and before the incident has a directory:
beside a `cp` that saturates the archive's disk they take 20 ms to read, and seconds to write.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from collector.model.case import merge
from collector.model.incident import StepEnd, StepStatus
from collector.model.marker import Marker
from collector.model.pressure import Decision
from collector.pipeline.run_types import RunSettings
from collector.pipeline.steps import Step
from collector.pressure.gate import decide
from collector.pressure.sampler import Sampler
from collector.runner import events
from collector.runner.coroutine import Task
from collector.runner.handle import Claim, Worker
from collector.runner.light_job import with_losses
from collector.runner.pool import Pool, Result
from collector.runner.protocol import Done, Job, ReadStep, WriteSpool, Written
from collector.runner.spare import have_worker

OUT_OF_TIME = "the incident's time was up"


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyPart:
    """The part of a step that was read early, where the step has more: since the epoch, and what is archived of it."""

    started_s: float
    written: Written | None


class LightPhase:
    """
    The first part of one incident, on one worker that it keeps meanwhile.

    Args:
        pool: Where that comes from.
        sampler: The supervisor's.
        incident: Its id.
        steps: All steps of the pipeline; those that are not light are left alone.
        settings: What the configuration says.
        markers: Returns what is known of the crash by now.
        tell: Receives every event.
    """

    def __init__(
        self,
        pool: Pool,
        sampler: Sampler,
        incident: str,
        *,
        steps: Iterable[Step],
        settings: RunSettings,
        markers: Callable[[], tuple[Marker, ...]],
        tell: Callable[[events.AnyEvent], None],
    ) -> None:
        self._pool = pool
        self._sampler = sampler
        self._incident = incident
        self._steps = [step for step in steps if step.reads_first]
        self._settings = settings
        self._markers = markers
        self._tell = tell
        self._claim = Claim()
        self._spooled_by: Worker | None = None
        self._read_ends: list[StepEnd] = []
        self._unfinished: dict[str, float] = {}
        self.ends: tuple[StepEnd, ...] = ()
        """How those steps ended that are done with it; known once they are written."""
        self.heads: dict[str, EarlyPart] = {}
        """Of those that are not, by id."""

    def read(self, deadline_s: float) -> Task[None]:
        """Read every light step, each against its own deadline."""
        started_s = time.monotonic()
        for step in self._steps:
            yield from self._read(step, deadline_s)
        if self._steps:
            self._tell(
                events.EvidenceRead(
                    incident=self._incident,
                    steps=tuple(step.id for step in self._steps),
                    duration_s=round(time.monotonic() - started_s, 6),
                )
            )

    def perform(self, job: Job, deadline_s: float, *, fds: Iterable[int] = ()) -> Task[Result]:
        """Have *job* done by the worker that is kept, or by another one if that is lost."""
        yield from self._have_worker()
        return (yield from self._pool.perform(job, deadline_s=deadline_s, claim=self._claim, fds=tuple(fds)))

    def write(self, reserve_bytes: int, deadline_s: float) -> Task[Done]:
        """Write what was read into the incident's directory, and what is known of the steps' ends."""
        result = Result(Done())
        if not self._read_ends and not self._claim.memories:
            return result.done
        for again in (False, True):
            job = WriteSpool(
                archive=self._settings.archive,
                incident=self._incident,
                ends=tuple(self._read_ends),
                reserve_bytes=reserve_bytes,
                copy=self._settings.copy,
                again=again,
            )
            result = yield from self.perform(job, deadline_s, fds=self._claim.memories)
            if not result.died:
                break
        self._conclude(result.done)
        return result.done

    def close(self) -> None:
        """Let others have the worker and its memory."""
        self._pool.release_claim(self._claim)

    def _read(self, step: Step, deadline_s: float) -> Task[None]:
        verdict = decide(self._sampler.sample(), budget=step.reading_budget, limits=step.limits)
        started_s, start_s = time.time(), time.monotonic()
        if start_s >= deadline_s:
            done = Done(status=StepStatus.SKIPPED, reason=OUT_OF_TIME)
        elif verdict.decision is Decision.PROCEED:
            done = yield from self._read_now(step, min(start_s + step.reading_timeout_s, deadline_s))
        else:
            done = Done(status=StepStatus.SKIPPED, reason=verdict.reason)
        if done.rest or (not step.is_light and done.status is not StepStatus.OK):
            self._unfinished[step.id] = started_s  # bulk has its own turn, whatever came of its head
            return
        self._read_ends.append(
            StepEnd(
                id=step.id,
                collector=step.collector.name,
                status=done.status,
                reason=done.reason,
                hint=done.hint,
                started_s=started_s,
                duration_s=round(time.monotonic() - start_s, 6),
                verdict=verdict,
            )
        )

    def _read_now(self, step: Step, deadline_s: float) -> Task[Done]:
        yield from self._have_worker()
        worker = self._claim.worker
        if fresh := worker is not self._spooled_by:
            self._claim.hold_memory()
            self._spooled_by = worker
        job = ReadStep(
            step=step.id,
            collector=step.collector,
            marker=merge(self._markers()),
            deadline_s=deadline_s,
            redaction=self._settings.redaction,
            fresh=fresh,
        )
        return (yield from self.perform(job, deadline_s)).done

    def _have_worker(self) -> Task[None]:
        if self._claim.worker is None:
            yield from have_worker(self._pool, self._sampler)
            self._pool.serve(self._claim)

    def _conclude(self, done: Done) -> None:
        """Put together what reading and writing came to."""
        parts = {part.step: part for part in done.written}
        self.heads = {
            step: EarlyPart(started_s=started_s, written=parts.get(step))
            for step, started_s in self._unfinished.items()
        }
        ends = (with_losses(end, done.written) for end in self._read_ends)
        self.ends = tuple(_unwritten(end, done) if done.status is not StepStatus.OK else end for end in ends)
        for end in self.ends:
            part = parts.get(end.id)
            artifacts, size_bytes = (part.artifacts, part.size_bytes) if part else (0, 0)
            self._tell(
                events.StepFinished(incident=self._incident, end=end, artifacts=artifacts, size_bytes=size_bytes)
            )


def _unwritten(end: StepEnd, done: Done) -> StepEnd:
    """Return the end of a step whose evidence was read, and could not be written."""
    if end.status not in (StepStatus.OK, StepStatus.TRUNCATED):
        return end
    reason = f"it was read, but not all of it written: {done.reason}"
    return msgspec.structs.replace(end, status=done.status, reason=reason, hint=done.hint)
