"""Work on the archive outside of incidents: recovery, retention, missing digests."""

from __future__ import annotations

import time
from collections.abc import Iterable

import msgspec

from collector.model.pressure import GateLimits, Policy
from collector.pipeline.generation import Generation
from collector.runner.coroutine import Task
from collector.runner.pool import Pool
from collector.runner.protocol import (
    ARCHIVE_JOB_S,
    AddDigests,
    CoreRule,
    FindHandovers,
    FindUndigested,
    HandOver,
    Job,
    KeepClock,
    Prune,
    Recover,
    RemoveCores,
)
from collector.runner.replies import Done

DIGEST_TIMEOUT_S = 24 * 3600.0
"""Reading a large incident back at idle pace may take hours; nothing waits for it."""

HANDOVER_MARGIN_S = 10.0
"""How long a worker has beside the program's own time, to kill what is left of it and to record what came of it."""

RECOVER_WAIT_S = 5.0
"""How long a start waits for workers of a killed run: one needed 0.4 s to return from an fsync and die."""


def recover(
    pool: Pool,
    archive: str,
    *,
    wait_s: float = RECOVER_WAIT_S,
    boot_id: str | None = None,
    spare: Iterable[str] = (),
) -> Task[Done]:
    """
    Seal what a killed run left behind, except for the incidents to *spare*.

    *sealed* of the result has the incidents and their states; with *boot_id*, *ids* has those that can be continued.
    """
    job = Recover(archive=archive, now_s=time.time(), wait_s=wait_s, boot_id=boot_id, spare=tuple(spare))
    return (yield from _perform(pool, job))


def prune(pool: Pool, generation: Generation, *, spare: str = "") -> Task[Done]:
    """Delete what retention does not keep, *spare* excepted; *ids* of the result are the incidents deleted."""
    settings = generation.settings
    job = Prune(archive=settings.archive, rules=settings.keep, reserve=settings.reserve, spare=spare)
    return (yield from _perform(pool, job))


def keep_clock(pool: Pool, generation: Generation) -> Task[Done]:
    """Store what the archive's clock shows."""
    return (yield from _perform(pool, KeepClock(archive=generation.settings.archive)))


def find_undigested(pool: Pool, generation: Generation, limit: int) -> Task[Done]:
    """Find incidents whose digests an earlier run left out; *ids* of the result are those, newest first."""
    return (yield from _perform(pool, FindUndigested(archive=generation.settings.archive, limit=limit)))


def add_digests(pool: Pool, generation: Generation, incident: str) -> Task[Done]:
    """Read back every artifact without a digest, at the configured rate and only while the gate is open."""
    job = AddDigests(
        archive=generation.settings.archive,
        incident=incident,
        deadline_s=time.monotonic() + DIGEST_TIMEOUT_S,
        limits=_patient(generation),
        copy=generation.settings.copy,
    )
    return (yield from _perform_by(pool, job, job.deadline_s))


def remove_cores(pool: Pool, generation: Generation, rules: tuple[CoreRule, ...]) -> Task[Done]:
    """Remove archived cores as *rules* say, after reading them at the configured rate, while the gate is open."""
    job = RemoveCores(
        archive=generation.settings.archive,
        rules=rules,
        deadline_s=time.monotonic() + DIGEST_TIMEOUT_S,
        limits=_patient(generation),
        copy=generation.settings.copy,
    )
    return (yield from _perform_by(pool, job, job.deadline_s))


def _patient(generation: Generation) -> GateLimits:
    """Return the limits of what nobody waits for."""
    return msgspec.structs.replace(
        generation.loaded.config.pressure, floor_bytes=0, on_pressure=Policy.WAIT, wait_s=DIGEST_TIMEOUT_S
    )


def hand_over(pool: Pool, generation: Generation, incident: str) -> Task[Done]:
    """Run the operator's program for an incident; *handover* of the result says what came of it."""
    settings = generation.loaded.config.on_archived
    job = HandOver(archive=generation.settings.archive, incident=incident, settings=settings)
    deadline_s = time.monotonic() + settings.timeout_s + HANDOVER_MARGIN_S
    with pool.widened():  # two crashes meanwhile still find a worker each
        return (yield from _perform_by(pool, job, deadline_s))


def find_handovers(pool: Pool, generation: Generation, limit: int) -> Task[Done]:
    """Find incidents that are still to be handed over: *waiting* of the result, beside *more*."""
    return (yield from _perform(pool, FindHandovers(archive=generation.settings.archive, limit=limit)))


def _perform_by(pool: Pool, job: Job, deadline_s: float) -> Task[Done]:
    """Perform what nobody waits for: the end of the daemon ends it."""
    return (yield from pool.perform(job, deadline_s=deadline_s, stoppable=True)).done


def _perform(pool: Pool, job: Job) -> Task[Done]:
    return (yield from pool.perform(job, deadline_s=time.monotonic() + ARCHIVE_JOB_S)).done
