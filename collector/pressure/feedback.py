"""The gate, asked again between the chunks of a copy."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from collector.model.copying import Advice, Feedback
from collector.model.pressure import Budget, Decision, GateLimits, Policy, Speed, SpeedChange
from collector.pressure.gate import decide, hurry
from collector.pressure.sampler import Sampler

PERIOD_S = 0.05
"""A sample costs 0.2 ms; at one in 50 ms that is 0.4 % of a core."""

CHANGES = 64
"""Changes reported one by one; the manifest only counts the rest."""

ADVICE = {Speed.FULL: Advice.GO, Speed.HALF: Advice.SLOW, Speed.TRICKLE: Advice.TRICKLE}


@dataclass(slots=True, kw_only=True)
class GateFeedback:
    """Advice for a copy in progress: `copying.engine` calls it between chunks."""

    sampler: Sampler
    disk_fd: int
    """On the archive's file system."""
    limits: GateLimits
    budget: Budget
    reserve_bytes: int
    """Free space that must remain."""
    stop_at_s: float
    """Monotonic; after it the copy must stop with what it has, or the step is killed."""
    holds: bool = False
    """A crashed process is held until the copy ends: memory that is short ends it."""
    waited_s: float = 0.0
    """How long the incident has waited, including the pauses of this copy."""
    changes: list[SpeedChange] = field(default_factory=list)
    more_changes: int = 0
    """Changes beyond those in *changes*."""
    _started_s: float = field(default_factory=time.monotonic)
    _asked_s: float = float("-inf")
    _held: bool = False
    _answer: Feedback = Feedback(Advice.GO)  # noqa: RUF009 - it is immutable

    def __call__(self) -> Feedback:
        """Return the advice for the next chunk; at most one sample per `PERIOD_S`."""
        now = time.monotonic()
        if now >= self.stop_at_s:
            return Feedback(Advice.STOP, "the step's time is up")
        if now - self._asked_s >= PERIOD_S:
            if self._answer.advice is Advice.PAUSE:
                self.waited_s += now - self._asked_s
            self._asked_s = now
            self._follow(self._ask(), now)
        return self._answer

    def _follow(self, answer: Feedback, now: float) -> None:
        if answer.advice is not self._answer.advice:
            if len(self.changes) < CHANGES:
                after_s = round(now - self._started_s, 3)
                self.changes.append(SpeedChange(after_s=after_s, advice=str(answer.advice), reason=answer.reason))
            else:
                self.more_changes += 1
        self._answer = answer

    def _ask(self) -> Feedback:
        verdict = decide(
            self.sampler.sample(self.disk_fd),
            budget=self.budget,
            limits=self.limits,
            reserve_bytes=self.reserve_bytes,
            waited_s=self.waited_s,
            held=self._held,
        )
        if self.holds and (reason := hurry(verdict)):
            return Feedback(Advice.STOP, reason)
        self._held = bool(verdict.objections)
        if verdict.decision is Decision.PROCEED:
            return Feedback(ADVICE[verdict.speed], verdict.reason)
        if verdict.decision is Decision.WAIT and self.limits.on_pressure is Policy.WAIT:
            return Feedback(Advice.PAUSE, verdict.reason)
        return Feedback(Advice.STOP, verdict.reason)
