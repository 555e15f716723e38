"""Whose incident is handed over next, and what is remembered of the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from collector.daemon import handovers
from collector.daemon.handovers import Handovers
from collector.daemon.loop import Loop
from collector.model.handover import HandoverRecord, HandoverSettings, HandoverState, WaitingHandover
from collector.model.incident import StepStatus
from collector.model.pressure import GateLimits, Policy
from collector.pressure.sampler import Sampler
from collector.runner import events
from collector.runner.coroutine import drive
from collector.runner.pool import Pool
from collector.runner.replies import Done

SETTINGS = HandoverSettings(argv=("/bin/true",), retries=3)


class Lab:
    """A queue whose handovers end immediately, as *end* says; *archive* holds what an earlier run has left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *archive: WaitingHandover) -> None:
        self.archive = list(archive)
        self.handed: list[str] = []
        self.reported: list[events.AnyEvent] = []
        self.end: Callable[[], Done] = lambda: Done(handover=HandoverRecord(state=HandoverState.DONE, tries=1))
        self.busy = True
        self.pool = SimpleNamespace(idle=2, stopping=False)
        self.stops: list[bool] = []
        self._tasks: deque[tuple[Any, Callable[[Any], None]]] = deque()
        monkeypatch.setattr(handovers, "hand_over", self._hand_over)
        monkeypatch.setattr(handovers, "find_handovers", self._find)
        config = SimpleNamespace(on_archived=SETTINGS, pressure=GateLimits(on_pressure=Policy.PROCEED))
        generation = SimpleNamespace(settings=SimpleNamespace(hands_over=True), loaded=SimpleNamespace(config=config))
        self.queue = Handovers(
            loop=cast(Loop, SimpleNamespace(spawn=self._spawn, call_later=lambda *_: None)),
            pool=cast(Pool, self.pool),
            sampler=Sampler(),
            generation=lambda: cast(Any, generation),
            busy=lambda: self.busy,
            report=self.reported.append,
            stopped=lambda: self.stops.append(self.queue.working),
        )

    def _spawn(self, task: Any, done: Callable[[Any], None]) -> None:
        self._tasks.append((task, done))

    def _hand_over(self, pool: Any, generation: Any, incident: str) -> Any:
        yield from ()
        self.handed.append(incident)
        return self.end()

    def _find(self, pool: Any, generation: Any, limit: int) -> Any:
        yield from ()
        found, self.archive = self.archive[:limit], self.archive[limit:]
        return Done(waiting=tuple(found), more=len(self.archive))

    def run(self) -> None:
        self.busy = False
        self.queue.turn()
        self.finish()

    def finish(self) -> None:
        while self._tasks:
            task, done = self._tasks.popleft()
            done(drive(task))


def test_handovers_of_one_user_do_not_delay_those_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root goes first, then users by turns, each one's oldest first."""
    lab = Lab(monkeypatch)
    for number in range(4):
        lab.queue.owe(f"flood{number}", "uid 1000")
    lab.queue.owe("other", "uid 1001")
    lab.queue.owe("roots", "root/cron")
    lab.run()
    assert lab.handed == ["roots", "flood0", "other", "flood1", "flood2", "flood3"]


def test_handovers_beyond_what_is_remembered_are_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is bounded, and whoever has most in it gives way; the archive still knows."""
    lab = Lab(monkeypatch)
    lab.run()  # nothing was left by an earlier run
    lab.busy = True
    lab.queue.owe("other", "uid 1001")
    for number in range(handovers.MOST + 5):
        lab.queue.owe(f"flood{number}", "uid 1000")
    lab.archive = [WaitingHandover(incident=f"flood{number}", owner="uid 1000") for number in range(6)]
    assert lab.queue.counts["waiting"] == handovers.MOST
    lab.run()
    assert "other" in lab.handed[:2]
    assert sorted(lab.handed) == sorted({"other", *(f"flood{number}" for number in range(handovers.MOST + 5))})
    assert lab.queue.counts == {"waiting": 0, "done": handovers.MOST + 6, "failed": 0}


def test_handovers_that_failed_before_a_restart_keep_their_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that is restarted in a loop does not use up the retries."""
    lab = Lab(
        monkeypatch,
        WaitingHandover(incident="new", owner="root"),
        WaitingHandover(incident="failed", owner="root", tries=1),
    )
    lab.run()
    assert (lab.handed, lab.queue.counts["waiting"]) == (["new"], 1)


def test_handovers_wait_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """5, 25 and 125 minutes; what could not even be tried is not counted, and is tried again."""
    lab = Lab(monkeypatch)
    ends = iter([1, 2, 3])
    lab.end = lambda: Done(handover=HandoverRecord(tries=next(ends), reason="it exited with status 1"))
    for name in ("a", "b", "c"):
        lab.queue.owe(name, "root")
    lab.run()
    assert [getattr(event, "retry_s", 0) for event in lab.reported] == [300.0, 1500.0, 7500.0]
    lab.end = lambda: Done(status=StepStatus.FAILED, reason="no worker is left")
    lab.queue.owe("d", "root")
    lab.run()
    assert lab.reported[-1] == events.HandoverFailed(incident="d", reason="no worker is left", retry_s=300.0)
    assert lab.queue.counts == {"waiting": 4, "done": 0, "failed": 0}


def test_handovers_of_what_was_deleted_are_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention may be faster."""
    lab = Lab(monkeypatch)
    lab.end = Done
    lab.queue.owe("gone", "root")
    lab.run()
    assert (lab.reported, lab.queue.counts) == ([], {"waiting": 0, "done": 0, "failed": 0})


@pytest.mark.parametrize("searching", [True, False])
def test_handovers_let_the_daemon_end_once_their_job_has(monkeypatch: pytest.MonkeyPatch, searching: bool) -> None:
    """Whether that was a search or a program, which a stop cuts off: the next start goes on, and nothing has failed."""
    lab = Lab(monkeypatch)
    lab.end = lambda: Done(handover=HandoverRecord(reason="the collector was stopped"))
    if not searching:
        lab.run()
        lab.queue.owe("a", "root")
    lab.busy = False
    lab.queue.turn()
    assert lab.queue.working
    lab.pool.stopping = True
    lab.finish()
    assert (lab.stops, lab.reported) == ([False], [])
    lab.queue.turn()
    assert not lab.queue.working
