"""What a worker says while it copies."""

from __future__ import annotations

import contextlib
import os
import signal
import socket

import msgspec
import pytest

from collector.model.copying import Advice, Feedback
from collector.runner import reporter
from collector.runner.protocol import INTERRUPT, STOP
from collector.runner.replies import Progress
from collector.runner.reporter import Reporter

GO = Feedback(Advice.GO)
PAUSE = Feedback(Advice.PAUSE, "severe distress")


def said(sock: socket.socket) -> list[Progress]:
    found = []
    sock.setblocking(False)
    while True:
        try:
            found.append(msgspec.json.decode(sock.recv(1024), type=Progress))
        except BlockingIOError:
            return found


def test_reporter_says_at_once_that_a_copy_is_paused_and_when_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written in a pause: without this, a terminal would show the last rate for as long as it lasts."""
    monkeypatch.setattr(reporter, "PROGRESS_S", 0.0)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        report = Reporter(ours)
        report.progress(5, 10)
        for answer in (GO, PAUSE, PAUSE, PAUSE, GO, GO):
            assert report.heard(answer) is answer
        slowed = "pause: severe distress"
        assert said(theirs) == [Progress(5, 10), Progress(5, 10, slowed), Progress(5, 10)]


def test_reporter_repeats_news_that_came_too_soon() -> None:
    """At most ten reports a second; what the gate said in between is told by the next question."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        report = Reporter(ours)
        report.progress(5, 10)
        report.heard(PAUSE)
        assert said(theirs) == [Progress(5, 10)]
        report._reported_s = float("-inf")
        report.heard(PAUSE)
        assert said(theirs) == [Progress(5, 10, "pause: severe distress")]


@pytest.mark.parametrize("said_before", [b"", b"unread"])
@pytest.mark.parametrize("turn", ["asks", "reports"])
def test_reporter_dies_with_the_supervisor(turn: str, said_before: bytes) -> None:
    """A copy that ended by itself would record what it has, and the next run would take that for all there is."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if said_before:
        ours.send(said_before)
    theirs.close()
    if (pid := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            report = Reporter(ours)
            if turn == "asks":
                report.stopped()
            else:
                report.progress(1)
        os._exit(0)
    ours.close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_reporter_is_stopped_when_asked() -> None:
    """The supervisor is there, and wants what there is."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        theirs.send(INTERRUPT)
        report = Reporter(ours)
        assert not report.stopped()
        theirs.send(STOP)
        assert report.stopped()
