"""Work between incidents: lost workers are replaced, missing digests added, old incidents deleted."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

from collector.daemon.journal import get_logger
from collector.daemon.loop import Loop
from collector.pipeline.generation import Generation
from collector.pressure.sampler import Sampler
from collector.runner import events
from collector.runner.housekeeping import add_digests, find_undigested, prune
from collector.runner.pool import Pool, may_fork
from collector.runner.protocol import Done

UNDIGESTED = 64
"""Incidents that may wait for their digests; others stay without, as `collector verify` reports."""

RETENTION_S = 24 * 3600.0
"""Retention is applied after each incident, and at least daily."""

log = get_logger()


class Maintenance:
    """
    Work that yields to every incident.

    Args:
        loop: Runs it.
        pool: The workers.
        sampler: Asked before a fork.
        generation: Returns the configuration in force.
        busy: Returns whether an incident is under way.
        report: Receives an event for each deleted incident.
    """

    def __init__(
        self,
        loop: Loop,
        pool: Pool,
        sampler: Sampler,
        *,
        generation: Callable[[], Generation],
        busy: Callable[[], bool],
        report: Callable[[events.AnyEvent], None],
    ) -> None:
        self._loop = loop
        self._pool = pool
        self._sampler = sampler
        self._generation = generation
        self._busy = busy
        self._report = report
        self._prune_at_s = time.monotonic()
        self._pruning = False
        self._undigested: deque[str] = deque(maxlen=UNDIGESTED)
        self._digesting = False
        self._searched = False

    def owe_digests(self, incidents: Iterable[str]) -> None:
        """Queue incidents whose copies may lack digests."""
        self._undigested.extend(incidents)

    def turn(self) -> None:
        """Do what is due, unless an incident is under way."""
        self.refill()
        if not self._busy():
            self._loop.spawn(self._pool.release(), lambda _: None)
        self._retain()
        self._digest()

    def refill(self) -> None:
        """Replace lost workers, between incidents and while the gate is open."""
        self._pool.reap()
        if self._busy() or not self._pool.missing or not may_fork(self._sampler):
            return
        try:
            self._pool.fill()
        except OSError as exc:  # no process or descriptor is available: the next turn tries again
            log.warning("worker.missing", missing=self._pool.missing, error=exc.strerror)

    def pruned(self, done: Done) -> None:
        """Report what retention has deleted, or why it failed."""
        self._pruning = False
        self._prune_at_s = time.monotonic() + RETENTION_S
        for incident in done.ids:
            self._report(events.IncidentPruned(incident=incident, reason="archive.keep"))
        if done.reason:
            log.error("archive.failed", error=done.reason, hint=done.hint)

    def _occupied(self) -> bool:
        return self._busy() or self._pruning or self._digesting or not self._pool.idle

    def _retain(self) -> None:
        if not self._occupied() and time.monotonic() >= self._prune_at_s:
            self._pruning = True
            self._loop.spawn(prune(self._pool, self._generation()), self.pruned)

    def _digest(self) -> None:
        """Add the digests that a copy did not compute, of the incident that has waited longest."""
        if self._occupied():
            return  # without a worker each would fail immediately, and be forgotten
        if not self._searched:
            self._searched = self._digesting = True
            self._loop.spawn(find_undigested(self._pool, self._generation(), UNDIGESTED), self._found)
            return
        if not self._undigested:
            return
        self._digesting = True
        incident = self._undigested.popleft()
        task = add_digests(self._pool, self._generation(), incident)
        self._loop.spawn(task, lambda done: self._digested(incident, done))

    def _found(self, done: Done) -> None:
        """Queue what an earlier run left without digests, behind what this one has queued."""
        self._digesting = False
        owed = [incident for incident in done.ids if incident not in self._undigested]
        self._undigested.extend(owed[: UNDIGESTED - len(self._undigested)])
        self.turn()

    def _digested(self, incident: str, done: Done) -> None:
        self._digesting = False
        if not done.reason:
            log.info("incident.sealed", incident=incident, digests=done.artifacts)
        elif self._busy():  # interrupted: a new incident goes first
            self._undigested.appendleft(incident)
        else:
            log.warning("incident.undigested", incident=incident, reason=done.reason)
        self.turn()
