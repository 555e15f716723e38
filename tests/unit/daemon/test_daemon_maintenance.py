"""What is done between incidents, and put off while it cannot be done."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from collector.daemon import maintenance
from collector.daemon.loop import Loop
from collector.daemon.maintenance import Upkeep
from collector.model.incident import StepStatus
from collector.pressure.sampler import Sampler
from collector.runner import events
from collector.runner.coroutine import drive
from collector.runner.pool import Pool
from collector.runner.protocol import Done

NO_WORKER = Done(status=StepStatus.FAILED, reason="no worker is left", exit_code=70)


class Lab:
    """An upkeep whose jobs end at once; *archive* are the incidents that an earlier run left without digests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *archive: str) -> None:
        self.busy = False
        self.searches = 0
        self.digested: list[str] = []
        self.archive = archive
        self.pool = SimpleNamespace(idle=2, missing=0, reap=lambda: None, release=self._release)
        monkeypatch.setattr(maintenance, "find_undigested", self._find)
        monkeypatch.setattr(maintenance, "add_digests", self._add)
        monkeypatch.setattr(maintenance, "prune", self._prune)
        self.prunes = 0
        self.told: list[str] = []
        self.upkeep = Upkeep(
            cast(Loop, SimpleNamespace(spawn=self._spawn)),
            cast(Pool, self.pool),
            cast(Sampler, None),
            generation=lambda: cast(Any, None),
            busy=lambda: self.busy,
            tell=lambda event: self.told.append(cast(events.IncidentPruned, event).incident),
        )

    def _spawn(self, line: Any, done: Callable[[Any], None]) -> None:
        done(drive(line))

    def _release(self) -> Any:
        yield from ()

    def _find(self, pool: Any, generation: Any, limit: int) -> Any:
        yield from ()
        self.searches += 1
        return Done(ids=self.archive[:limit]) if self.pool.idle else NO_WORKER

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


def test_upkeep_puts_digests_off_while_there_is_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both lost, and the gate closed: what is owed is not forgotten."""
    lab = Lab(monkeypatch)
    lab.upkeep.turn()
    lab.pool.idle = 0
    lab.upkeep.owe_digests(["i1", "i2"])
    lab.upkeep.turn()
    assert lab.digested == []
    lab.pool.idle = 1
    lab.upkeep.turn()
    assert lab.digested == ["i1", "i2"]


def test_upkeep_adds_the_digests_that_an_earlier_run_did_not_come_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked for once, as soon as nothing better is to be done; those recovered just now are not read twice."""
    lab = Lab(monkeypatch, "i3", "i2", "i1")
    lab.busy = True
    lab.upkeep.owe_digests(["i2"])
    lab.upkeep.turn()
    assert (lab.searches, lab.digested) == (0, [])
    lab.busy, lab.pool.idle = False, 0
    lab.upkeep.turn()
    assert lab.searches == 0
    lab.pool.idle = 1
    lab.upkeep.turn()
    lab.upkeep.turn()
    assert (lab.searches, lab.digested) == (1, ["i2", "i3", "i1"])


def test_upkeep_drops_none_that_this_run_owes_for_those_of_an_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is bounded: the newest of what is owed stay."""
    lab = Lab(monkeypatch, *(f"old{number}" for number in range(maintenance.UNDIGESTED)))
    owed = [f"new{number}" for number in range(maintenance.UNDIGESTED - 1)]
    lab.upkeep.owe_digests(owed)
    lab.upkeep.turn()
    assert lab.digested == [*owed, "old0"]


def test_upkeep_deletes_what_is_too_old_though_nothing_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a day, between incidents."""
    lab = Lab(monkeypatch)
    lab.busy = True
    lab.upkeep.turn()
    assert lab.prunes == 0
    lab.busy = False
    lab.upkeep.turn()
    lab.upkeep.turn()
    assert (lab.prunes, lab.told) == (1, ["old"])
    lab.upkeep.pruned(Done())
    now = time.monotonic()
    monkeypatch.setattr(maintenance.time, "monotonic", lambda: now + maintenance.RETENTION_S + 1)
    lab.upkeep.turn()
    assert lab.prunes == 2
