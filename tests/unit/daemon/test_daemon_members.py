"""Answers for members: one reading for all who ask, and none while a crash needs the workers."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest

from collector.daemon import members
from collector.daemon.members import Members
from collector.daemon.messages import Reply, Summaries, SummariesRequest
from collector.runner.replies import Done
from collector.runner.summaries_job import ListOfIncidents
from collector.runner.worker_process import JobResult

ASK = SummariesRequest()


class Asker:
    """A client that keeps what it is told; it is its own socket."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.sock = self

    def send(self, answer: Any) -> None:
        self.told.append(answer)

    end = send

    def close(self) -> None:
        """Nothing is open."""


class Machine:
    """A loop and a pool whose jobs end when they are told to."""

    def __init__(self) -> None:
        self.idle = 2
        self.jobs: list[Any] = []

    def perform(self, job: Any, *, deadline_s: float) -> Any:
        assert deadline_s > 0
        return job

    def spawn(self, _task: Any, done: Any) -> None:
        self.jobs.append(done)

    def end(self, data: bytes | None) -> None:
        fd = None
        if data is not None:
            fd = os.memfd_create("test")
            os.write(fd, data)
        self.jobs[-1](JobResult(Done(), fd))


@pytest.fixture
def machine() -> Machine:
    return Machine()


def members_of(machine: Machine, *, busy: bool = False) -> Members:
    return Members(machine, machine, "/archive", lambda: busy)  # type: ignore[arg-type]


def asked(it: Members) -> Asker:
    asker = Asker()
    it.handle(asker, ASK)  # type: ignore[arg-type]
    return asker


NONE = msgspec.json.encode(ListOfIncidents(incidents=(), left_out=7))


def test_members_who_ask_at_once_share_one_reading(machine: Machine) -> None:
    """And who asks soon afterwards gets the same."""
    it = members_of(machine)
    askers = [asked(it) for _ in range(members.WAITING)]
    assert asked(it).told == [members.BUSY]
    machine.end(NONE)
    answer = Summaries(archive="/archive", incidents=(), left_out=7)
    assert [asker.told for asker in askers] == [[answer]] * members.WAITING
    assert asked(it).told == [answer]
    assert len(machine.jobs) == 1


def test_members_are_answered_anew_later(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be a new incident."""
    monkeypatch.setattr(members, "KEPT_S", 0.0)
    it = members_of(machine)
    asked(it)
    machine.end(NONE)
    asked(it)
    assert len(machine.jobs) == 2


@pytest.mark.parametrize(("idle", "busy"), [(1, False), (0, False), (2, True)])
def test_members_never_take_the_worker_that_a_crash_needs(machine: Machine, idle: int, busy: bool) -> None:
    """They are asked to try again."""
    machine.idle = idle
    assert asked(members_of(machine, busy=busy)).told == [members.BUSY]
    assert machine.jobs == []


@pytest.mark.parametrize("data", [None, b"", b"{", b"null"])
def test_members_are_told_that_it_failed_without_trying_again_at_once(machine: Machine, data: bytes | None) -> None:
    """A worker that was killed over it must be forked again: that is not for others to order."""
    it = members_of(machine)
    first = asked(it)
    machine.end(data)
    assert [type(answer) for answer in first.told + asked(it).told] == [Reply, Reply]
    assert len(machine.jobs) == 1
