"""Work between incidents, and what postpones it."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from collector.daemon import maintenance
from collector.daemon.counters import Counters
from collector.daemon.loop import Loop
from collector.daemon.maintenance import Maintenance
from collector.model.incident import StepStatus
from collector.pressure.sampler import Sampler
from collector.runner import events
from collector.runner.coroutine import drive
from collector.runner.pool import Pool
from collector.runner.replies import Done

NO_WORKER = Done(status=StepStatus.FAILED, reason="no worker is left", exit_code=70)


class Lab:
    """Maintenance whose jobs end immediately; *archive* holds incidents that an earlier run left without digests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *archive: str) -> None:
        self.busy = False
        self.searches = 0
        self.digested: list[str] = []
        self.archive = archive
        self.pool = SimpleNamespace(idle=2, missing=0, reap=lambda: None, release=self._release)
        monkeypatch.setattr(maintenance, "find_undigested", self._find)
        monkeypatch.setattr(maintenance, "add_digests", self._add)
        monkeypatch.setattr(maintenance, "prune", self._prune)
        monkeypatch.setattr(maintenance, "keep_clock", self._keep_clock)
        self.prunes = self.clocks = 0
        self.reported: list[str] = []
        self.maintenance = Maintenance(
            loop=cast(Loop, SimpleNamespace(spawn=self._spawn)),
            pool=cast(Pool, self.pool),
            sampler=cast(Sampler, None),
            generation=lambda: cast(Any, None),
            busy=lambda: self.busy,
            report=lambda event: self.reported.append(cast(events.IncidentPruned, event).incident),
            counters=Counters(),
        )

    def _spawn(self, task: Any, done: Callable[[Any], None]) -> None:
        done(drive(task))

    def _release(self) -> Any:
        yield from ()

    def _find(self, pool: Any, generation: Any, limit: int) -> Any:
        yield from ()
        self.searches += 1
        return Done(ids=self.archive[:limit]) if self.pool.idle else NO_WORKER

    def _keep_clock(self, pool: Any, generation: Any) -> Any:
        yield from ()
        self.clocks += 1
        return Done()

    def _prune(self, pool: Any, generation: Any) -> Any:
        yield from ()
        self.prunes += 1
        return Done(ids=("old",))

    def _add(self, pool: Any, generation: Any, incident: str) -> Any:
        yield from ()
        if not self.pool.idle:
            return NO_WORKER
        self.digested.append(incident)
        return Done(artifacts=1)


def test_maintenance_postpones_digests_while_there_is_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are lost and the gate is closed: no incident is forgotten."""
    lab = Lab(monkeypatch)
    lab.maintenance.turn()
    lab.pool.idle = 0
    lab.maintenance.owe_digests(["i1", "i2"])
    lab.maintenance.turn()
    assert lab.digested == []
    lab.pool.idle = 1
    lab.maintenance.turn()
    assert lab.digested == ["i1", "i2"]


def test_maintenance_adds_the_digests_that_an_earlier_run_left_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It searches once, between incidents; those recovered at the start are not read twice."""
    lab = Lab(monkeypatch, "i3", "i2", "i1")
    lab.busy = True
    lab.maintenance.owe_digests(["i2"])
    lab.maintenance.turn()
    assert (lab.searches, lab.digested) == (0, [])
    lab.busy, lab.pool.idle = False, 0
    lab.maintenance.turn()
    assert lab.searches == 0
    lab.pool.idle = 1
    lab.maintenance.turn()
    lab.maintenance.turn()
    assert (lab.searches, lab.digested) == (1, ["i2", "i3", "i1"])


def test_maintenance_prefers_digests_of_this_run_to_those_of_an_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is bounded, and keeps the newest."""
    lab = Lab(monkeypatch, *(f"old{number}" for number in range(maintenance.UNDIGESTED)))
    owed = [f"new{number}" for number in range(maintenance.UNDIGESTED - 1)]
    lab.maintenance.owe_digests(owed)
    lab.maintenance.turn()
    assert lab.digested == [*owed, "old0"]


def test_maintenance_applies_retention_even_if_nothing_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a day, between incidents."""
    lab = Lab(monkeypatch)
    lab.busy = True
    lab.maintenance.turn()
    assert lab.prunes == 0
    lab.busy = False
    lab.maintenance.turn()
    lab.maintenance.turn()
    assert (lab.prunes, lab.reported) == (1, ["old"])
    lab.maintenance.pruned(Done())
    now = time.monotonic()
    monkeypatch.setattr(maintenance.time, "monotonic", lambda: now + maintenance.RETENTION_S + 1)
    lab.maintenance.turn()
    assert lab.prunes == 2


def test_maintenance_stores_the_archives_clock_every_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is switched off every night must not keep everything forever."""
    lab = Lab(monkeypatch)
    now = time.monotonic()
    for hours in (0, 1, 1, 2):
        monkeypatch.setattr(maintenance.time, "monotonic", lambda hours=hours: now + hours * (maintenance.CLOCK_S + 1))
        lab.maintenance.turn()
    assert lab.clocks == 2
