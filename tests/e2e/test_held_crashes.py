"""A daemon to which the kernel hands crashes: each process is held for its own incident, and let go in every case."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from configuration import EXITS, HOLD, MEMORY, config_of
from harness import Daemon, Victim, held, status_of, wait_for
from machine import PROC_CONNECTOR, core_pattern, every_fault_logged

from collector.host.core_pattern_owner import has_coredump_socket

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not has_coredump_socket(os.uname().release), reason="needs Linux 6.17"),
]
LONG = "hold: 10m"  # a process that is let go in time was not let go by its deadline


def cores(*options: str) -> str:
    return f"{{{', '.join(('id: held', 'type: kernel_cores', 'register: false', 'pipeline: crash', *options))}}}"


@contextmanager
def offered_to(daemon: Daemon) -> Iterator[None]:
    """Let the kernel hand crashes to *daemon*."""
    with core_pattern(f"@@{daemon.runtime}/cores.sock"):
        yield


def of(daemon: Daemon, pid: int) -> list[dict[str, Any]]:
    """Incidents of one process: others crash on this machine, too."""
    return [
        manifest
        for manifest in daemon.incidents()
        if any(pid == (marker.get("process") or {}).get("pid") for marker in manifest["markers"])
    ]


def incident_of(daemon: Daemon, pid: int) -> dict[str, Any]:
    return wait_for(lambda: of(daemon, pid), f"incident of {pid}")[0]


def dump_of(manifest: dict[str, Any]) -> str:
    """What became of the dump, as the incident says."""
    return next(marker["attributes"]["dump"] for marker in manifest["markers"] if marker["kind"] == "dump")


def fate_of(daemon: Daemon, pid: int) -> tuple[str, str] | None:
    """The fate of a crash that was offered, and why."""
    where = "json_extract(marker, '$.process.pid'), kind, fate, reason"
    return next((row[2:] for row in daemon.ledger(where) if row[:2] == (pid, "dump")), None)


def blocked(daemon: Daemon) -> Path:
    fifo = daemon.directory / "hold"
    os.mkfifo(fifo)
    return fifo


@pytest.mark.needs(PROC_CONNECTOR)
def test_held_crash_is_one_incident_with_its_exit_and_the_kernels_line(
    daemon_factory: Callable[..., Daemon], crasher: Path
) -> None:
    """The announced exit comes first and opens the case, which takes the held process over."""
    kernel = "{id: kernel, type: kernel_log, events: [segfault], pipeline: crash}"
    daemon = daemon_factory(config_of(MEMORY, triggers=(cores(LONG), EXITS, kernel)))
    with offered_to(daemon), every_fault_logged():
        pid = Victim(crasher).die()
        manifest = incident_of(daemon, pid)
    wait_for(lambda: [row for row in daemon.ledger("fate") if row == ("joined",)][1:], "joined markers")
    (manifest,) = of(daemon, pid)
    assert {marker["trigger"] for marker in manifest["markers"]} == {"held", "exits", "kernel"}
    assert dump_of(manifest) == "held"


def test_crash_over_its_budget_is_refused_before_a_byte(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """It is in the ledger, and when it is collected later the incident says that its dump was refused."""
    storm = {"per_executable": {"count": 1, "window": "3s"}}
    daemon = daemon_factory(config_of(MEMORY, triggers=(cores(LONG),), storm=storm))
    with offered_to(daemon):
        first, second = Victim(crasher), Victim(crasher)
        assert dump_of(incident_of(daemon, first.die())) == "held"
        pid = second.die()
        fate, reason = fate_of(daemon, pid) or ("", "")
    assert (fate, "1 incidents of" in reason) == ("held", True), reason
    assert dump_of(incident_of(daemon, pid)).startswith("its dump was refused: ")


def test_process_is_let_go_when_its_hold_is_over(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """Although its incident goes on."""
    daemon = daemon_factory(config_of(HOLD, triggers=(cores("hold: 1s"),)), start=False)
    fifo = blocked(daemon)
    daemon.start()
    with offered_to(daemon):
        victim = Victim(crasher)
        victim.process.stdin.close()  # type: ignore[union-attr]
        with held(fifo):
            assert victim.process.wait(60) == -signal.SIGSEGV
    assert "as long as `hold` allows" in dump_of(incident_of(daemon, victim.process.pid))


def test_crash_beyond_waiting_is_collected_without_its_dump(
    daemon_factory: Callable[..., Daemon], crasher: Path
) -> None:
    daemon = daemon_factory(config_of(HOLD, triggers=(cores(LONG, "waiting: 1"),)), start=False)
    fifo = blocked(daemon)
    daemon.start()
    with offered_to(daemon):
        first, second = Victim(crasher), Victim(crasher)
        first.process.stdin.close()  # type: ignore[union-attr]
        with held(fifo):
            pid = second.die()
            assert first.process.poll() is None
        assert first.process.wait(60) == -signal.SIGSEGV
    with held(fifo):
        assert status_of(daemon).limits["kernel_cores.waiting"]["root"] >= 1
    assert "1 crashed processes are held already" in dump_of(incident_of(daemon, pid))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_process_is_let_go_when_the_daemon_ends(
    daemon_factory: Callable[..., Daemon], crasher: Path, number: signal.Signals
) -> None:
    daemon = daemon_factory(config_of(HOLD, triggers=(cores(LONG),)), start=False)
    fifo = blocked(daemon)
    daemon.start()
    with offered_to(daemon):
        victim = Victim(crasher)
        victim.process.stdin.close()  # type: ignore[union-attr]
        with held(fifo):
            assert victim.process.poll() is None
            assert daemon.process is not None
            daemon.process.send_signal(number)
            if number == signal.SIGTERM:
                wait_for(lambda: not (daemon.runtime / "cores.sock").exists(), "closed socket")
                late = Victim(crasher)
                late.die()  # nobody listens any more
            else:
                assert victim.process.wait(60) == -signal.SIGSEGV
        assert victim.process.wait(60) == -signal.SIGSEGV
        daemon.process.wait(40)


def test_crash_of_the_collector_itself_waits_for_nobody(daemon_factory: Callable[..., Daemon]) -> None:
    """Neither a worker's, nor the daemon's own, which could never take its dump."""
    daemon = daemon_factory(config_of(MEMORY, triggers=(cores(LONG),)))
    with offered_to(daemon):
        worker = psutil.Process(daemon.pid).children()[0]
        worker.send_signal(signal.SIGSEGV)
        wait_for(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, "end of the worker")
        assert of(daemon, worker.pid) == []
        assert fate_of(daemon, worker.pid) is None
        assert status_of(daemon).pid == daemon.pid
        assert daemon.stop(signal.SIGSEGV) == -signal.SIGSEGV


def test_crash_of_a_command_of_the_collectors_is_refused(daemon_factory: Callable[..., Daemon]) -> None:
    """A child of a worker may be dumped, and its crash never opens an incident."""
    step = "{id: bad, collector: command, with: {argv: [/bin/sh, -c, 'echo $$ > $directory/pid; kill -SEGV $$']}}"
    daemon = daemon_factory(config_of(step, triggers=(cores(LONG),)))
    with offered_to(daemon):
        assert daemon.run("run", "--now").returncode == 0
    pid = int((daemon.directory / "pid").read_text(encoding="utf-8"))
    fate, reason = fate_of(daemon, pid) or ("", "")
    assert (fate, "the collector's own" in reason) == ("suppressed", True), reason
