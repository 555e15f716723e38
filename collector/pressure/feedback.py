"""The gate, asked again between the chunks of a copy."""

from __future__ import annotations

import time

from collector.model.copying import Advice, Feedback
from collector.model.pressure import Budget, Decision, GateLimits, Policy, Speed, SpeedChange
from collector.pressure.gate import decide
from collector.pressure.sampler import Sampler

PERIOD_S = 0.05
"""A sample costs 0.2 ms; at one in 50 ms that is 0.4 % of a core."""

CHANGES = 64
"""Changes reported one by one; the manifest only counts the rest."""

ADVICE = {Speed.FULL: Advice.GO, Speed.HALF: Advice.SLOW, Speed.TRICKLE: Advice.TRICKLE}


class GateFeedback:
    """
    Advice for a copy in progress: `copying.engine` calls it between chunks.

    Args:
        sampler: The worker's own.
        disk_fd: On the archive's file system.
        limits: Of the step.
        budget: What the step adds.
        reserve_bytes: Free space that must remain.
        stop_at_s: Monotonic; after it the copy must stop with what it has, or the step is killed.
        waited_s: How long the incident has waited so far.
    """

    def __init__(
        self,
        sampler: Sampler,
        disk_fd: int,
        *,
        limits: GateLimits,
        budget: Budget,
        reserve_bytes: int,
        stop_at_s: float,
        waited_s: float = 0.0,
    ) -> None:
        self._sampler = sampler
        self._disk_fd = disk_fd
        self._limits = limits
        self._budget = budget
        self._reserve_bytes = reserve_bytes
        self._stop_at_s = stop_at_s
        self._started_s = time.monotonic()
        self._asked_s = float("-inf")
        self._held = False
        self._answer = Feedback(Advice.GO)
        self.waited_s = waited_s
        """How long the incident has waited, including the pauses of this copy."""
        self.changes: list[SpeedChange] = []
        self.more_changes = 0
        """Changes beyond those in *changes*."""

    def __call__(self) -> Feedback:
        """Return the advice for the next chunk; at most one sample per `PERIOD_S`."""
        now = time.monotonic()
        if now >= self._stop_at_s:
            return Feedback(Advice.STOP, "the step's time is up")
        if now - self._asked_s >= PERIOD_S:
            if self._answer.advice is Advice.PAUSE:
                self.waited_s += now - self._asked_s
            self._asked_s = now
            self._follow(self._ask(), now)
        return self._answer

    def _follow(self, answer: Feedback, now: float) -> None:
        if answer.advice is not self._answer.advice:
            change = SpeedChange(
                after_s=round(now - self._started_s, 3), advice=str(answer.advice), reason=answer.reason
            )
            if len(self.changes) < CHANGES:
                self.changes.append(change)
            else:
                self.more_changes += 1
        self._answer = answer

    def _ask(self) -> Feedback:
        verdict = decide(
            self._sampler.sample(self._disk_fd),
            budget=self._budget,
            limits=self._limits,
            reserve_bytes=self._reserve_bytes,
            waited_s=self.waited_s,
            held=self._held,
        )
        self._held = bool(verdict.objections)
        if verdict.decision is Decision.PROCEED:
            return Feedback(ADVICE[verdict.speed], verdict.reason)
        if verdict.decision is Decision.WAIT and self._limits.on_pressure is Policy.WAIT:
            return Feedback(Advice.PAUSE, verdict.reason)
        return Feedback(Advice.STOP, verdict.reason)
