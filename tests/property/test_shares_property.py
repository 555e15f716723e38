"""Floods of several users against crashes of others: whoever stays within his own budgets loses none."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from collector.model.admission import Admission
from collector.model.budgets import CountBudget, StormSettings, TotalBudget
from collector.model.case import Case, Fate
from collector.model.marker import Marker, MarkerKind, ProcessRef
from collector.model.owners import Owners, SubordinateUids

USERS = Owners(subordinate=(SubordinateUids(first=100_000, count=65_536, uid=1000),))
FLOODING = (65534, 1000, 100_000, 100_001, None)
CAREFUL = (0, 2000)
LARGEST = 35
"""Crashes of each of them in an hour: what is left of 500 if two floods take 60 and those of nobody known 125."""


class Burst(NamedTuple):
    """*count* crashes of *uid* after *gap_s*, and how many of the flood's incidents have ended by then."""

    uid: int | None
    count: int
    gap_s: float
    ended: int
    size_bytes: int


FLOOD = st.builds(
    Burst,
    uid=st.sampled_from(FLOODING),
    count=st.integers(1, 80),
    gap_s=st.sampled_from((0.0, 0.1, 30.0)),
    ended=st.integers(0, 40),
    size_bytes=st.sampled_from((0, 1 << 20, 1 << 40)),
)
CRASH = st.builds(
    Burst,
    uid=st.sampled_from(CAREFUL),
    count=st.just(1),
    gap_s=st.sampled_from((0.0, 0.1, 60.0, 600.0)),
    ended=st.integers(0, 5),
    size_bytes=st.just(1 << 20),
)


class Machine:
    """An admission and what runs on it: floods take their time, the others' incidents end at once."""

    def __init__(self, queue: int) -> None:
        self.admission = Admission(
            StormSettings(per_executable=CountBudget(count=3), total=TotalBudget(), queue=queue), owners=USERS
        )
        self.now_s = 0.0
        self.number = 0
        self.running: list[Case] = []
        self.history: dict[int, list[tuple[float, str]]] = {uid: [] for uid in CAREFUL}
        self.expected: set[int] = set()
        self.collected: set[int] = set()
        self.displaced: set[int] = set()

    def crash(self, uid: int | None, name: str) -> Fate:
        self.number += 1
        process = ProcessRef(pid=self.number, start_time_ticks=self.number)
        attributes = {"core_dumped": "no"}
        marker = Marker(
            kind=MarkerKind.EXIT, trigger="t", at_s=0.0, process=process, comm=name, uid=uid, attributes=attributes
        )
        ruling = self.admission.offer(self.number, marker, pipeline="crash", now_s=self.now_s)
        self.displaced.update(gone.number for gone in ruling.displaced)
        return ruling.fate

    def within_budget(self, uid: int, name: str) -> bool:
        recent = [one for at_s, one in self.history[uid] if at_s > self.now_s - 600.0]
        hour = [at_s for at_s, _ in self.history[uid] if at_s > self.now_s - 3600.0]
        return len(recent) < 10 and recent.count(name) < 3 and len(hour) < LARGEST

    def happen(self, burst: Burst) -> None:
        self.now_s += burst.gap_s
        for case in self.running[: burst.ended]:
            self.admission.finished(case, incident="i", size_bytes=burst.size_bytes)
        del self.running[: burst.ended]
        if burst.uid in CAREFUL:
            name = f"engine{self.number % 4}"
            if self.within_budget(burst.uid, name):
                self.history[burst.uid].append((self.now_s, name))
                assert self.crash(burst.uid, name) is Fate.QUEUED
                self.expected.add(self.number)
        else:
            for number in range(burst.count):
                self.crash(burst.uid, f"c{number}")
        if burst.uid in CAREFUL or burst.ended:
            self.begin()

    def begin(self) -> None:
        while (case := self.admission.next(self.now_s)) is not None:
            if case.id in self.expected:
                self.collected.add(case.id)
                self.admission.finished(case, incident="i", size_bytes=1 << 20)
            else:
                self.running.append(case)


@settings(deadline=None)
@given(st.lists(st.one_of(FLOOD, CRASH, CRASH), max_size=60), st.integers(4, 64))
def test_floods_cost_nobody_a_crash_who_stays_within_his_budgets(bursts: list[Burst], queue: int) -> None:
    """Neither in the budgets nor the queue nor the places to run, whatever the floods' sizes and how long they take."""
    machine = Machine(queue)
    for burst in bursts:
        machine.happen(burst)
    assert not machine.displaced & machine.expected
    assert machine.collected == machine.expected
    assert machine.admission.queued <= queue + 3
