"""Archived incidents that are handed over to the operator's program, one at a time and while nothing is collected."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from collector.daemon.journal import get_logger
from collector.daemon.loop import Loop
from collector.model.handover import HandoverRecord, HandoverState, WaitingHandover
from collector.model.owners import is_protected, user_of
from collector.model.pressure import Budget, Decision, StepClass
from collector.model.shares import FairTable
from collector.pipeline.generation import Generation
from collector.pressure.gate import decide
from collector.pressure.sampler import Sampler
from collector.runner import events
from collector.runner.housekeeping import find_handovers, hand_over
from collector.runner.pool import Pool
from collector.runner.replies import Done

MOST = 256
"""Incidents remembered; that any others wait is known from the archive, which is searched once these are done."""

BUDGET = Budget(step_class=StepClass.HEAVY, memory_bytes=64 << 20)
"""The gate holds the program to what it holds the collector `command` to."""

log = get_logger()


class DueHandover(NamedTuple):
    """An incident to hand over, not before *due_s* (monotonic)."""

    incident: str
    owner: str
    due_s: float


@dataclass(slots=True, kw_only=True)
class Handovers:
    """
    The queue of incidents to hand over. What waits is in the archive, this is only its order.

    Root and the configured units go first, then whoever's turn was longest ago.
    """

    loop: Loop
    pool: Pool
    sampler: Sampler
    generation: Callable[[], Generation]
    """Returns the configuration in force."""
    busy: Callable[[], bool]
    """Returns whether an incident is under way."""
    report: Callable[[events.AnyEvent], None]
    stopped: Callable[[], None]
    """Called when a job has ended for which the daemon's own end waits."""
    _waiting: FairTable[str, DueHandover] = field(default_factory=lambda: FairTable(MOST))
    _ended: Counter[str] = field(default_factory=Counter)
    _turns: dict[str, int] = field(default_factory=dict)
    _turn: int = 0
    _working: bool = False
    _searched: bool = False
    """Nothing waits in the archive that is not in the queue."""

    @property
    def working(self) -> bool:
        """Whether a worker has a job of ours: it ends soon after the pool is stopped."""
        return self._working

    @property
    def counts(self) -> dict[str, int]:
        """How many wait, and how many were done or given up since the start."""
        ended = {str(state): self._ended[state] for state in (HandoverState.DONE, HandoverState.FAILED)}
        return {str(HandoverState.WAITING): len(self._waiting), **ended}

    def owe(self, incident: str, owner: str) -> None:
        """Queue an incident that was archived."""
        if self.generation().settings.hands_over:
            self._put(DueHandover(incident, owner, time.monotonic()))

    def turn(self) -> None:
        """Hand over the next incident, if one is due, none is under way, and the gate is open."""
        if self._working or self.busy() or self.pool.stopping or not self.pool.idle:
            return
        generation = self.generation()
        if not generation.settings.hands_over:
            return
        if not self._waiting and not self._searched:
            self._working = self._searched = True
            self.loop.spawn(find_handovers(self.pool, generation, MOST), self._found)
        elif (due := self._next()) is not None and self._may_run(generation):
            self._working = True
            started_s = time.monotonic()
            task = hand_over(self.pool, generation, due.incident)
            self.loop.spawn(task, lambda done: self._tried(due, done, time.monotonic() - started_s))

    def _may_run(self, generation: Generation) -> bool:
        limits = generation.loaded.config.pressure
        return decide(self.sampler.sample(), budget=BUDGET, limits=limits).decision is Decision.PROCEED

    def _next(self) -> DueHandover | None:
        now_s = time.monotonic()
        due = [one for _, one in self._waiting.items() if one.due_s <= now_s]
        if not due:
            return None

        def order(one: DueHandover) -> tuple[bool, int]:
            user = user_of(one.owner)
            return not is_protected(user), self._turns.get(user, 0)

        chosen = min(due, key=order)
        self._turn += 1
        present = {user_of(one.owner) for _, one in self._waiting.items()}
        self._turns = {user: turn for user, turn in self._turns.items() if user in present}
        self._turns[user_of(chosen.owner)] = self._turn
        return chosen

    def _found(self, done: Done) -> None:
        """Queue what an earlier run has left; a try that failed waits as long as if it had just ended."""
        self._working = False
        self._searched = not done.more and not done.reason
        for one in done.waiting:
            if one.incident not in self._waiting:
                self._put(DueHandover(one.incident, one.owner, self._due_s(one)))
        self._go_on(more=bool(done.waiting))

    def _due_s(self, one: WaitingHandover) -> float:
        return time.monotonic() + self.generation().loaded.config.on_archived.pause_s(one.tries)

    def _put(self, due: DueHandover) -> None:
        """Queue one; the oldest of the owner who has most gives way, and is found again later."""
        if self._waiting.put(due.incident, due, due.owner) is not None:
            self._searched = False

    def _tried(self, due: DueHandover, done: Done, duration_s: float) -> None:
        self._working = False
        self._waiting.pop(due.incident)
        if done.handover is not None:
            self._record(due, done.handover, duration_s)
            if done.reason:
                log.error("archive.failed", error=done.reason)
        elif done.reason:
            retry_s = self._again(due, 1)
            self.report(events.HandoverFailed(incident=due.incident, reason=done.reason, retry_s=retry_s))
        self._go_on(more=True)

    def _go_on(self, *, more: bool) -> None:
        if self.pool.stopping:
            self.stopped()
        elif more:
            self.turn()

    def _record(self, due: DueHandover, record: HandoverRecord, duration_s: float) -> None:
        """Report what came of a try, and queue the incident again if there is another one."""
        if record.state is HandoverState.DONE:
            self._ended[record.state] += 1
            self.report(events.HandoverDone(incident=due.incident, tries=record.tries, duration_s=round(duration_s, 3)))
            return
        if record.state is HandoverState.FAILED:
            self._ended[record.state] += 1
        elif self.pool.stopping:
            return  # the next start goes on
        failed = events.HandoverFailed(
            incident=due.incident,
            reason=record.reason,
            tries=record.tries,
            output=record.output,
            exit_status=record.exit_status,
            retry_s=self._again(due, record.tries) if record.state is HandoverState.WAITING else None,
        )
        self.report(failed)

    def _again(self, due: DueHandover, tries: int) -> float:
        """Queue an incident again after so many *tries*; return the pause before the next one."""
        pause_s = self.generation().loaded.config.on_archived.pause_s(tries)
        self._put(due._replace(due_s=time.monotonic() + pause_s))
        self.loop.call_later(pause_s, self.turn)
        return pause_s
