"""What is done to the archive before and after incidents: recovery, retention, the missing digests."""

from __future__ import annotations

import time

import msgspec

from collector.model.pressure import Policy
from collector.pipeline.generation import Generation
from collector.runner.coroutine import Task
from collector.runner.pool import Pool
from collector.runner.protocol import AddDigests, Done, FindUndigested, Prune, Recover
from collector.runner.runner import ARCHIVE_JOB_S

DIGEST_TIMEOUT_S = 24 * 3600.0
"""Reading a large incident back at idle pace may take hours; nothing waits for it."""


RECOVER_WAIT_S = 5.0
"""How long a start waits for workers of a killed run: one took 0.4 s to come back from an fsync, and die."""

STARTED_S = (time.time(), time.clock_gettime(time.CLOCK_BOOTTIME))


def age_clock_s(now_s: float) -> float:
    """Return *now_s*, the wall clock, as ages are judged by: one that jumps ahead must not delete the archive."""
    wall_s, boot_s = STARTED_S
    return min(now_s, wall_s + time.clock_gettime(time.CLOCK_BOOTTIME) - boot_s)


def recover(pool: Pool, generation: Generation) -> Task[Done]:
    """Seal what a killed run left behind; the reply's *sealed* are the incidents, and their states."""
    job = Recover(archive=generation.settings.archive, now_s=time.time(), wait_s=RECOVER_WAIT_S)
    return (yield from pool.perform(job, deadline_s=time.monotonic() + ARCHIVE_JOB_S)).done


def prune(pool: Pool, generation: Generation, *, spare: str = "") -> Task[Done]:
    """Delete what retention does not keep, *spare* excepted; the reply's *ids* are the incidents deleted."""
    rules, now_s = generation.loaded.config.archive.keep, age_clock_s(time.time())
    job = Prune(archive=generation.settings.archive, rules=rules, now_s=now_s, spare=spare)
    return (yield from pool.perform(job, deadline_s=time.monotonic() + ARCHIVE_JOB_S)).done


def find_undigested(pool: Pool, generation: Generation, limit: int) -> Task[Done]:
    """Look for incidents whose digests an earlier run did not come to; the reply's *ids* are those, newest first."""
    job = FindUndigested(archive=generation.settings.archive, limit=limit)
    return (yield from pool.perform(job, deadline_s=time.monotonic() + ARCHIVE_JOB_S)).done


def add_digests(pool: Pool, generation: Generation, incident: str) -> Task[Done]:
    """Read back what carries no digest yet, at the configured pace and only while the gate is open."""
    deadline_s = time.monotonic() + DIGEST_TIMEOUT_S
    job = AddDigests(
        archive=generation.settings.archive,
        incident=incident,
        deadline_s=deadline_s,
        limits=msgspec.structs.replace(
            generation.loaded.config.pressure, floor_bytes=0, on_pressure=Policy.WAIT, wait_s=DIGEST_TIMEOUT_S
        ),
        copy=generation.settings.copy,
    )
    return (yield from pool.perform(job, deadline_s=deadline_s, stoppable=True)).done
