"""Who is held for which case, and that everybody is let go: refused, over, displaced, late, or left behind."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass

import pytest

from collector.daemon.holding import Holding
from collector.daemon.loop import Loop
from collector.host.held_process import DumpSource, HeldProcess
from collector.model.budgets import Spent
from collector.model.case import Case, Fate
from collector.model.marker import DUMP, HELD_DUMP, Marker, MarkerKind, ProcessRef
from collector.model.ruling import Ruling


@dataclass
class Crash:
    """A crash, and the end of the connection that is the kernel's."""

    marker: Marker
    held: HeldProcess
    kernel: socket.socket
    case: Case

    @property
    def dump(self) -> str:
        return self.case.marker.attributes[DUMP]

    @property
    def is_let_go(self) -> bool:
        self.kernel.setblocking(False)
        try:
            return self.kernel.recv(16) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True


class Lab:
    """A holding, with crashes as the kernel offers them."""

    def __init__(self, stack: ExitStack) -> None:
        self.loop = Loop()
        self.holding = Holding(self.loop)
        self._stack = stack
        stack.callback(self.holding.close)

    def crash(self, pid: int = 4000077, *, hold_s: float = 60.0, spent: bool = True) -> Crash:
        """Return a crash that is held until it is ruled on."""
        ours, kernel = socket.socketpair()
        self._stack.enter_context(closing(kernel))
        process = ProcessRef(pid=pid, start_time_ticks=pid)
        now_s = time.monotonic()
        held = HeldProcess(
            process=process,
            source=DumpSource.SOCKET,
            stream_fd=ours.detach(),
            pidfd=os.pidfd_open(os.getpid()),
            since_s=now_s,
            deadline_s=now_s + hold_s,
        )
        self.holding.add(held)
        marker = Marker(kind=MarkerKind.DUMP, trigger="held", at_s=0.0, process=process, attributes={DUMP: HELD_DUMP})
        case = Case(
            id=pid, pipeline="crash", opened_s=0.0, ready_s=0.0, executable="engine", owner="root", markers=[marker],
            spent=Spent(at_s=0.0, executable="engine", owner="root") if spent else None,
        )  # fmt: skip
        return Crash(marker, held, kernel, case)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with ExitStack() as stack:
        yield Lab(stack)


def test_holding_keeps_a_process_for_its_case(lab: Lab) -> None:
    crash = lab.crash()
    lab.holding.ruled(crash.marker, Ruling(fate=Fate.QUEUED, case=crash.case))
    assert lab.holding.of(crash.case) is crash.held
    assert lab.holding.count == 1
    assert not crash.is_let_go
    assert crash.dump == HELD_DUMP


@pytest.mark.parametrize(
    ("fate", "reason", "told"),
    [
        (Fate.HELD, "5 incidents in 10 m", "its dump was refused: 5 incidents in 10 m"),
        (Fate.JOINED, "by its start time", "its dump was refused: its case waits for a budget"),
    ],
)
def test_holding_refuses_what_waits_for_a_budget(lab: Lab, fate: Fate, reason: str, told: str) -> None:
    """It is collected later, if at all, and its case knows that there is no dump."""
    crash = lab.crash(spent=False)
    lab.holding.ruled(crash.marker, Ruling(fate=fate, reason=reason, case=crash.case))
    assert lab.holding.of(crash.case) is None
    assert lab.holding.count == 0
    assert crash.is_let_go
    assert crash.dump == told


def test_holding_refuses_what_no_incident_wants(lab: Lab) -> None:
    """One that is suppressed has no case; one that joins may find its incident over."""
    own, late = lab.crash(4000077), lab.crash(4000078)
    late.case.end()
    lab.holding.ruled(own.marker, Ruling(fate=Fate.SUPPRESSED, reason="the collector's own"))
    lab.holding.ruled(late.marker, Ruling(fate=Fate.JOINED, reason="by its start time", case=late.case))
    assert (own.is_let_go, own.held.ended) == (True, "the collector's own")
    assert (late.is_let_go, late.held.ended) == (True, "its incident is over")


def test_holding_lets_go_when_the_case_is_over_and_when_hold_is(lab: Lab) -> None:
    over, late, kept = lab.crash(4000077), lab.crash(4000078, hold_s=0.0), lab.crash(4000079)
    for crash in (over, late, kept):
        lab.holding.ruled(crash.marker, Ruling(fate=Fate.QUEUED, case=crash.case))
    over.case.end()
    lab.loop.call_later(0.05, lab.loop.stop)
    lab.holding.tidy()
    assert [crash.is_let_go for crash in (over, late, kept)] == [True, True, False]
    assert late.dump == "its dump was ended: it was held for as long as `hold` allows"


def test_holding_lets_go_of_who_gives_way(lab: Lab) -> None:
    """Its marker says why, or the incident would claim that it is held still."""
    crash = lab.crash()
    lab.holding.ruled(crash.marker, Ruling(fate=Fate.QUEUED, case=crash.case))
    lab.holding.let_go(crash.held, "it gave way")
    assert crash.is_let_go
    assert (lab.holding.of(crash.case), crash.dump) == (None, "its dump was refused: it gave way")


def test_holding_needs_nobody_to_call_it_at_the_deadline(lab: Lab) -> None:
    """Not even a ruling: whoever was never ruled on is let go as well."""
    crash = lab.crash(hold_s=0.05)
    lab.loop.call_later(0.3, lab.loop.stop)
    lab.loop.run()
    assert crash.is_let_go


def test_holding_keeps_only_begun_cases_when_the_daemon_is_to_end(lab: Lab) -> None:
    begun, queued = lab.crash(4000077), lab.crash(4000078)
    begun.case.incident = "20260101T000000.000000Z-000000"
    for crash in (begun, queued):
        lab.holding.ruled(crash.marker, Ruling(fate=Fate.QUEUED, case=crash.case))
    lab.holding.leave()
    assert [crash.is_let_go for crash in (begun, queued)] == [False, True]
    assert queued.dump == "its dump was refused: the collector was stopped"


def test_holding_refuses_to_hold_a_process_twice(lab: Lab) -> None:
    first, second = lab.crash(), lab.crash()
    assert (first.is_let_go, second.is_let_go) == (False, True)


def test_release_lets_go_of_a_process_whose_connection_a_worker_has_too(lab: Lab) -> None:
    """A hanging worker must not prolong the hold."""
    crash = lab.crash()
    with closing(socket.socket(fileno=os.dup(crash.held.stream_fd))):
        crash.held.release("time is up")
        assert crash.is_let_go
