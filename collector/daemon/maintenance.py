"""What is done between incidents: lost workers are replaced, missing digests added, old incidents deleted."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

import structlog

from collector.daemon.loop import Loop
from collector.pipeline.generation import Generation
from collector.pressure.sampler import Sampler
from collector.runner import events
from collector.runner.housekeeping import add_digests, find_undigested, prune
from collector.runner.pool import Pool
from collector.runner.protocol import Done
from collector.runner.spare import may_fork

UNDIGESTED = 64
"""Incidents that wait for their digests; those beyond get none, and `collector verify` says so."""

RETENTION_S = 24 * 3600.0
"""Each incident is followed by a look at what has become too old; where nothing crashes any more, a day is."""

log = structlog.get_logger()


class Upkeep:
    """
    The work that gives way to every incident.

    Args:
        loop: Drives it.
        pool: The workers.
        sampler: Asked before a fork.
        generation: Returns the configuration in force.
        busy: Returns whether an incident is under way.
        tell: Is told of each incident deleted.
    """

    def __init__(
        self,
        loop: Loop,
        pool: Pool,
        sampler: Sampler,
        *,
        generation: Callable[[], Generation],
        busy: Callable[[], bool],
        tell: Callable[[events.AnyEvent], None],
    ) -> None:
        self._loop = loop
        self._pool = pool
        self._sampler = sampler
        self._generation = generation
        self._busy = busy
        self._tell = tell
        self._prune_at_s = time.monotonic()
        self._pruning = False
        self._undigested: deque[str] = deque(maxlen=UNDIGESTED)
        self._digesting = False
        self._searched = False

    def owe_digests(self, incidents: Iterable[str]) -> None:
        """Take note of incidents whose copies may lack digests."""
        self._undigested.extend(incidents)

    def turn(self) -> None:
        """Do what is to be done, if nothing better is."""
        self.refill()
        if not self._busy():
            self._loop.spawn(self._pool.release(), lambda _: None)
        self._retain()
        self._digest()

    def refill(self) -> None:
        """Replace workers that were lost: between incidents, and only with the gate open."""
        self._pool.reap()
        if self._busy() or not self._pool.missing or not may_fork(self._sampler):
            return
        try:
            self._pool.fill()
        except OSError as exc:  # no process or descriptor to be had now: the next turn tries again
            log.warning("worker.missing", missing=self._pool.missing, error=exc.strerror)

    def pruned(self, done: Done) -> None:
        """Say what retention has deleted, or why it could not."""
        self._pruning = False
        self._prune_at_s = time.monotonic() + RETENTION_S
        for incident in done.ids:
            self._tell(events.IncidentPruned(incident=incident, reason="archive.keep"))
        if done.reason:
            log.error("archive.failed", error=done.reason, hint=done.hint)

    def _occupied(self) -> bool:
        return self._busy() or self._pruning or self._digesting or not self._pool.idle

    def _retain(self) -> None:
        """Delete what has become too old: memory of a crash must not stay for ever where it was the last."""
        if not self._occupied() and time.monotonic() >= self._prune_at_s:
            self._pruning = True
            self._loop.spawn(prune(self._pool, self._generation()), self.pruned)

    def _digest(self) -> None:
        """Add the digests that a copy could not compute: those of the incident that has waited longest."""
        if self._occupied():
            return  # without a worker each would fail at once, and be forgotten
        if not self._searched:
            self._searched = self._digesting = True
            self._loop.spawn(find_undigested(self._pool, self._generation(), UNDIGESTED), self._found)
            return
        if not self._undigested:
            return
        self._digesting = True
        incident = self._undigested.popleft()
        line = add_digests(self._pool, self._generation(), incident)
        self._loop.spawn(line, lambda done: self._digested(incident, done))

    def _found(self, done: Done) -> None:
        """Queue what an earlier run owed, behind what this one does."""
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
