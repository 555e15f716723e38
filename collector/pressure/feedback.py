"""The gate, asked again between the chunks of a copy."""

from __future__ import annotations

import time

from collector.model.copying import Advice, Feedback
from collector.model.pressure import Budget, Decision, Limits, Policy, Sample
from collector.pressure.gate import decide
from collector.pressure.sampler import Sampler

PERIOD_S = 0.05
"""A sample costs 0.3 ms; at one in 50 ms that is 0.6 % of a core."""


class GateFeedback:
    """
    Advice for a copy under way: `copying.engine` calls it between chunks.

    Args:
        sampler: The worker's own.
        disk_fd: On the archive's file system.
        limits: What must remain.
        budget: What the step holds.
        reserve_bytes: Free space that must remain.
        stop_at_s: Monotonic; past it the copy must stop with what it has, or the step is killed.
    """

    def __init__(
        self, sampler: Sampler, disk_fd: int, *, limits: Limits, budget: Budget, reserve_bytes: int, stop_at_s: float
    ) -> None:
        self._sampler = sampler
        self._disk_fd = disk_fd
        self._limits = limits
        self._budget = budget
        self._reserve_bytes = reserve_bytes
        self._stop_at_s = stop_at_s
        self._closed_since_s: float | None = None
        self._previous: Sample | None = None
        self._answer = Feedback(Advice.GO)
        self._asked_s = float("-inf")

    def __call__(self) -> Feedback:
        """Return the advice for the next chunk; at most one sample per `PERIOD_S`."""
        now = time.monotonic()
        if now >= self._stop_at_s:
            return Feedback(Advice.STOP, "the step's time is up")
        if now - self._asked_s >= PERIOD_S:
            self._asked_s = now
            self._answer = self._ask(now)
        return self._answer

    def _ask(self, now: float) -> Feedback:
        sample = self._sampler.sample(self._disk_fd)
        waited_s = 0.0 if self._closed_since_s is None else max(now - self._closed_since_s, PERIOD_S)
        verdict = decide(
            sample,
            self._previous,
            budget=self._budget,
            limits=self._limits,
            reserve_bytes=self._reserve_bytes,
            waited_s=waited_s,
        )
        self._previous = sample
        if not verdict.objections:
            self._closed_since_s = None
            return Feedback(Advice.GO)
        if verdict.decision is Decision.PROCEED:
            return Feedback(Advice.SLOW, verdict.reason)
        if verdict.decision is Decision.WAIT and self._limits.on_pressure is Policy.WAIT:
            self._closed_since_s = now if self._closed_since_s is None else self._closed_since_s
            return Feedback(Advice.PAUSE, verdict.reason)
        return Feedback(Advice.STOP, verdict.reason)
