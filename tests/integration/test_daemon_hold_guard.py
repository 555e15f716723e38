"""Every hold ends in time, whatever becomes of the daemon that holds it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from collector.daemon import hold_guard
from collector.daemon.hold_guard import HoldGuard
from collector.host.held_process import DumpSource, HeldProcess
from collector.model.marker import ProcessRef


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """The process that is held, in place of one that crashed."""
    with subprocess.Popen(["sleep", "1000"]) as child:
        yield child
        child.kill()


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Iterator[HoldGuard]:
    monkeypatch.setattr(hold_guard, "GRACE_S", 0.1)
    monkeypatch.setattr(hold_guard, "SILENT_S", 0.1)
    with closing(HoldGuard()) as guard:
        yield guard


def held(process: subprocess.Popen[bytes], stream_fd: int, source: DumpSource, hold_s: float) -> HeldProcess:
    now_s = time.monotonic()
    return HeldProcess(
        process=ProcessRef(pid=process.pid, start_time_ticks=1),
        source=source,
        stream_fd=stream_fd,
        pidfd=os.pidfd_open(process.pid),
        since_s=now_s,
        deadline_s=now_s + hold_s,
    )


def ends(kernel: socket.socket, within_s: float = 5.0) -> bool:
    """Return whether the other end of a connection is shut down."""
    kernel.settimeout(within_s)
    try:
        return kernel.recv(1) == b""
    except TimeoutError:
        return False


def test_hold_ends_at_its_deadline_without_the_daemon(process: subprocess.Popen[bytes], guard: HoldGuard) -> None:
    """Here nobody else does anything: the daemon may hang in its ledger."""
    ours, kernel = socket.socketpair()
    with closing(kernel), closing(ours):
        guard.watch(held(process, ours.fileno(), DumpSource.SOCKET, 0.3))
        assert not ends(kernel, 0.1)
        assert ends(kernel)


def test_hold_ends_with_the_daemon(process: subprocess.Popen[bytes]) -> None:
    """Although a worker that hangs has the connection open: here this test has."""
    ours, kernel = socket.socketpair()
    with closing(kernel), closing(ours):
        with closing(HoldGuard()) as guard:
            guard.watch(held(process, ours.fileno(), DumpSource.SOCKET, 1000.0))
            assert not ends(kernel, 0.1)
        assert ends(kernel)


def test_process_with_a_pipe_is_killed(process: subprocess.Popen[bytes], guard: HoldGuard) -> None:
    guard.watch(held(process, os.memfd_create("pipe"), DumpSource.PIPE, 0.1))
    assert process.wait(10) == -signal.SIGKILL


def test_guard_keeps_nothing_of_a_process_that_has_ended(process: subprocess.Popen[bytes], guard: HoldGuard) -> None:
    """Two hundred crashes a minute must not use up its descriptors."""
    fds = Path(f"/proc/{guard.pid}/fd")
    ours, kernel = socket.socketpair()
    with closing(kernel), closing(ours):
        guard.watch(held(process, ours.fileno(), DumpSource.SOCKET, 1000.0))
        time.sleep(0.2)
        assert len(list(fds.iterdir())) == 6
        process.kill()
        process.wait()
        time.sleep(0.2)
        assert len(list(fds.iterdir())) == 4


def test_queue_is_emptied_once_the_daemon_does_not_answer(guard: HoldGuard, tmp_path: Path) -> None:
    """Not while it does."""
    with closing(socket.socket(socket.AF_UNIX)) as listening, closing(socket.socket(socket.AF_UNIX)) as kernel:
        listening.bind(str(tmp_path / "s"))
        listening.listen(4)
        listening.setblocking(False)
        guard.queue(listening.fileno(), 0.5)
        kernel.connect(str(tmp_path / "s"))
        for _ in range(8):
            guard.beat()
            assert not ends(kernel, 0.1)
        assert ends(kernel)


def test_killed_guard_is_noticed(guard: HoldGuard) -> None:
    assert not guard.ended
    os.kill(guard.pid, signal.SIGTERM)  # as of the whole unit: it goes on
    guard.beat()
    time.sleep(0.1)
    assert not guard.ended
    os.kill(guard.pid, signal.SIGKILL)
    os.waitid(os.P_PID, guard.pid, os.WEXITED | os.WNOWAIT)
    assert guard.ended
    guard.beat()
