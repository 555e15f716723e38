"""The one fork that an incident may see: where a worker was lost, and the gate is open."""

from __future__ import annotations

import contextlib
import time

from collector.model.pressure import Budget, Decision, GateLimits, Policy, StepClass
from collector.model.units import Bytes, Seconds
from collector.pressure.gate import decide
from collector.pressure.sampler import Sampler
from collector.runner.coroutine import Task, sleep
from collector.runner.pool import Pool

FORK = Budget(step_class=StepClass.DIRECT, memory_bytes=16 << 20)
"""What a new worker may need: twice the 8 MiB of private memory that a warm one has."""

FORK_LIMITS = GateLimits(floor_bytes=Bytes(0), on_pressure=Policy.SKIP, wait_s=Seconds(0.0))
"""A worker is forked where there is room for it, and no severe distress."""

FORK_WAIT_S = 30.0
"""How long an incident that has lost all workers waits for one: without it nothing more can be archived."""

PAUSES_S = (0.01, 0.25)
"""First and longest pause between two looks: workers that others use are done soon, as a rule, and evidence waits."""


def may_fork(sampler: Sampler) -> bool:
    """Return whether the gate lets a worker be forked now."""
    verdict = decide(sampler.sample(), budget=FORK, limits=FORK_LIMITS)
    return verdict.decision is Decision.PROCEED


def have_worker(pool: Pool, sampler: Sampler) -> Task[None]:
    """Return once a worker is idle: at once, when others are done with one, or when the gate lets one be forked."""
    pool.reap()
    until_s, pause_s = time.monotonic() + FORK_WAIT_S, PAUSES_S[0]
    while pool.idle == 0 and (pool.busy or time.monotonic() < until_s):
        if pool.missing and may_fork(sampler):
            with contextlib.suppress(OSError):  # no process or descriptor to be had now: try again
                pool.fill(1)
        if pool.idle == 0:
            yield from sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSES_S[1])
            pool.reap()
