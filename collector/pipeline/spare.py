"""The one fork that an incident may see: where all workers are lost, and the gate is open."""

from __future__ import annotations

import contextlib
import time

from collector.model.pressure import Budget, Decision, Limits, Policy
from collector.pipeline.line import Line, sleep
from collector.pipeline.pool import Pool
from collector.pressure.gate import decide
from collector.pressure.sampler import Sampler

FORK = Budget(memory_bytes=16 << 20)
"""What a new worker may need: twice the 8 MiB of private memory that a warm one has."""

FORK_LIMITS = Limits(floor_bytes=0, psi_full_percent=100.0, on_pressure=Policy.SKIP, wait_s=0.0)
"""A worker is forked above the kernel's own floor only."""

FORK_WAIT_S = 30.0
"""How long an incident that has lost all workers waits for one: without it nothing more can be archived."""

PAUSE_S = 0.25


def may_fork(sampler: Sampler) -> bool:
    """Return whether the gate lets a worker be forked now."""
    verdict = decide(sampler.sample(), None, budget=FORK, limits=FORK_LIMITS)
    return verdict.decision is Decision.PROCEED


def have_worker(pool: Pool, sampler: Sampler) -> Line[None]:
    """Return at once if a worker is idle; else fork one as soon as the gate allows it, or give up."""
    pool.reap()
    until_s = time.monotonic() + FORK_WAIT_S
    while pool.idle == 0 and time.monotonic() < until_s:
        if may_fork(sampler):
            with contextlib.suppress(OSError):  # no process or descriptor to be had now: try again
                pool.fill(1)
        if pool.idle == 0:
            yield from sleep(PAUSE_S)
