"""Work between incidents: lost workers are replaced, missing digests added, old incidents deleted."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import zip_longest

from collector.daemon.core_removal import CoreRemoval, rules_of
from collector.daemon.counters import Counters
from collector.daemon.journal import get_logger
from collector.daemon.loop import Loop
from collector.pipeline.generation import Generation
from collector.pressure.sampler import Sampler
from collector.runner import events
from collector.runner.housekeeping import add_digests, find_undigested, keep_clock, prune, remove_cores
from collector.runner.pool import Pool, may_fork
from collector.runner.replies import Done

UNDIGESTED = 64
"""Incidents that may wait for their digests; others stay without, as `collector verify` reports."""

RETENTION_S = 24 * 3600.0
"""Retention is applied after each incident, and at least daily."""

UNSENT = "archive.keep; it was not handed over"

CLOCK_S = 3600.0
"""Interval of storing the archive's clock: a crash of the machine makes every incident younger by this much."""

log = get_logger()


@dataclass(slots=True, kw_only=True)
class Maintenance:
    """Work that yields to every incident."""

    loop: Loop
    pool: Pool
    sampler: Sampler
    generation: Callable[[], Generation]
    """Returns the configuration in force."""
    busy: Callable[[], bool]
    """Returns whether an incident is under way."""
    report: Callable[[events.AnyEvent], None]
    """Receives an event for each deleted incident."""
    counters: Counters
    removal: CoreRemoval | None = None
    """Removes archived cores from their directories."""
    _prune_at_s: float = field(default_factory=time.monotonic)
    _pruning: bool = False
    _clock_at_s: float = field(default_factory=lambda: time.monotonic() + CLOCK_S)
    _undigested: deque[str] = field(default_factory=lambda: deque(maxlen=UNDIGESTED))
    _digesting: bool = False
    _searched: bool = False
    _removing: bool = False

    def owe_digests(self, incidents: Iterable[str]) -> None:
        """Queue incidents whose copies may lack digests; once they have them, their cores may be removed."""
        self._undigested.extend(incidents)
        if self.removal is not None:
            self.removal.due = True

    def turn(self) -> None:
        """Do what is due, unless an incident is under way."""
        self.refill()
        if not self.busy():
            self.loop.spawn(self.pool.release(), lambda _: None)
        self._retain()
        self._keep_clock()
        self._digest()
        self._remove_cores()

    def refill(self) -> None:
        """Replace lost workers, between incidents and while the gate is open."""
        self.pool.reap()
        if self.busy() or not self.pool.missing or not may_fork(self.sampler):
            return
        try:
            self.pool.fill()
        except OSError as exc:  # no process or descriptor is available: the next turn tries again
            log.warning("worker.missing", missing=self.pool.missing, error=exc.strerror)

    def pruned(self, done: Done) -> None:
        """Report what retention has deleted, or why it failed."""
        self._pruning = False
        self._prune_at_s = time.monotonic() + RETENTION_S
        self.counters.looked(done)
        for incident, owner in zip_longest(done.ids, done.owners, fillvalue=""):
            reason = UNSENT if incident in done.unsent else "archive.keep"
            self.report(events.IncidentPruned(incident=incident, reason=reason, owner=owner))
        if done.reason:
            log.error("archive.failed", error=done.reason, hint=done.hint)

    def _occupied(self) -> bool:
        return self.busy() or self._pruning or self._digesting or self._removing or not self.pool.idle

    def _retain(self) -> None:
        if not self._occupied() and time.monotonic() >= self._prune_at_s:
            self._pruning = True
            self.loop.spawn(prune(self.pool, self.generation()), self.pruned)

    def _keep_clock(self) -> None:
        if not self._occupied() and time.monotonic() >= self._clock_at_s:
            self._clock_at_s = time.monotonic() + CLOCK_S
            self.loop.spawn(keep_clock(self.pool, self.generation()), lambda _: None)

    def _digest(self) -> None:
        """Add the digests that a copy did not compute, of the incident that has waited longest."""
        if self._occupied():
            return  # without a worker each would fail immediately, and be forgotten
        if not self._searched:
            self._searched = self._digesting = True
            self.loop.spawn(find_undigested(self.pool, self.generation(), UNDIGESTED), self._found)
            return
        if not self._undigested:
            return
        self._digesting = True
        incident = self._undigested.popleft()
        task = add_digests(self.pool, self.generation(), incident)
        self.loop.spawn(task, lambda done: self._digested(incident, done))

    def _remove_cores(self) -> None:
        """Remove what is archived, once it is certain that the disk returns it."""
        if self.removal is None or not self.removal.due or self._undigested or self._occupied():
            return
        self.removal.due = False
        if rules := rules_of(self.generation()):
            self._removing = True
            self.loop.spawn(remove_cores(self.pool, self.generation(), rules), self._removed)

    def _removed(self, done: Done) -> None:
        self._removing = False
        if self.removal is not None:
            self.removal.ended(done)
            for one in done.cores_removed:
                self.counters.removed(one)

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
        elif self.busy():  # interrupted: a new incident goes first
            self._undigested.appendleft(incident)
        else:
            log.warning("incident.undigested", incident=incident, reason=done.reason)
        self.turn()
