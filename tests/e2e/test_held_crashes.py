"""A daemon to which the kernel hands crashes: each process is held for its own incident, and let go in every case."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from configuration import CORE, EXITS, MEMORY, config_of
from harness import Daemon, Victim, status_of, wait_for
from machine import PROC_CONNECTOR, core_pattern, every_fault_logged

from collector.host.core_pattern_owner import has_coredump_socket

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not has_coredump_socket(os.uname().release), reason="needs Linux 6.17"),
]
PROCESS = "{id: process, collector: process, timeout: 60s}"
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


@contextmanager
def stopped_workers(daemon: Daemon) -> Iterator[None]:
    """Let no step get on during the block, so that whoever is held stays so."""
    workers = [child for child in psutil.Process(daemon.pid).children() if child.name() == "collector-work"]
    for worker in workers:
        worker.suspend()
    try:
        yield
    finally:
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.resume()


def offered(daemon: Daemon, crasher: Path) -> Victim:
    """A process that crashes and is held."""
    victim = Victim(crasher)
    assert victim.process.stdin is not None
    victim.process.stdin.close()
    wait_for(lambda: (fate_of(daemon, victim.process.pid) or ("recorded",))[0] != "recorded", "ruling")
    assert victim.process.poll() is None
    return victim


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
    assert (fate, "1 incident of" in reason) == ("held", True), reason
    assert dump_of(incident_of(daemon, pid)).startswith("its dump was refused: ")


def test_process_is_let_go_when_its_hold_is_over(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """Although its incident does not get on."""
    daemon = daemon_factory(config_of(PROCESS, CORE, triggers=(cores("hold: 2s"),)))
    with offered_to(daemon), stopped_workers(daemon):
        assert offered(daemon, crasher).process.wait(60) == -signal.SIGSEGV


def test_process_is_read_in_full_however_short_its_hold_is(
    daemon_factory: Callable[..., Daemon], crasher: Path
) -> None:
    """What may hang is begun all the same: it takes milliseconds."""
    daemon = daemon_factory(config_of(PROCESS, CORE, triggers=(cores("hold: 2s"),)))
    with offered_to(daemon):
        manifest = incident_of(daemon, Victim(crasher).die())
    assert {step["id"]: step["status"] for step in manifest["steps"]} == {"process": "ok", "core": "ok"}


def test_dump_that_does_not_fit_into_a_second_leaves_its_stacks(daemon_factory: Callable[..., Daemon]) -> None:
    """There is time for them, and for what the notes say, however short the hold is."""
    daemon = daemon_factory(config_of(CORE, triggers=(cores("hold: 1s"),), copy={"rate": "20MiB/s"}))
    program = "import os; held = os.urandom(64 << 20); os.abort()"
    with offered_to(daemon), subprocess.Popen([sys.executable, "-I", "-S", "-c", program]) as process:
        assert process.wait(60) == -signal.SIGABRT
    (manifest,) = wait_for(lambda: of(daemon, process.pid), "incident")
    (step,) = manifest["steps"]
    assert step["status"] == "truncated"
    assert "taken as `stacks`" in step["reason"]


def test_crash_beyond_waiting_is_collected_without_its_dump(
    daemon_factory: Callable[..., Daemon], crasher: Path
) -> None:
    daemon = daemon_factory(config_of(PROCESS, CORE, triggers=(cores(LONG, "waiting: 1"),)))
    with offered_to(daemon):
        with stopped_workers(daemon):
            first, second = offered(daemon, crasher), Victim(crasher)
            pid = second.die()
            assert first.process.poll() is None
            assert status_of(daemon).limits["kernel_cores.waiting"]["root"] >= 1
        assert first.process.wait(60) == -signal.SIGSEGV
    assert "1 crashed processes are held already" in dump_of(incident_of(daemon, pid))


def test_process_is_let_go_when_the_daemon_is_killed(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    daemon = daemon_factory(config_of(PROCESS, CORE, triggers=(cores(LONG),)))
    with offered_to(daemon), stopped_workers(daemon):
        victim = offered(daemon, crasher)
        daemon.stop(signal.SIGKILL)
        assert victim.process.wait(60) == -signal.SIGSEGV


def test_process_is_let_go_though_the_daemon_hangs(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """As it does in its ledger while the archive's disk does not answer: also who waits to be taken over."""
    daemon = daemon_factory(config_of(PROCESS, CORE, triggers=(cores("hold: 3s"),)))
    assert daemon.process is not None
    with offered_to(daemon), stopped_workers(daemon):
        first, second = offered(daemon, crasher), Victim(crasher)
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            assert first.process.wait(20) == -signal.SIGSEGV
            second.die()
        finally:
            daemon.process.send_signal(signal.SIGCONT)


def test_daemon_that_is_to_end_takes_no_more_crashes(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """It finishes what it has begun; who crashes meanwhile waits for nobody."""
    daemon = daemon_factory(config_of(PROCESS, CORE, triggers=(cores(LONG),)))
    assert daemon.process is not None
    with offered_to(daemon):
        with stopped_workers(daemon):
            victim, late = offered(daemon, crasher), Victim(crasher)
            daemon.process.terminate()
            wait_for(lambda: b"daemon.stopping" in daemon.log.read_bytes(), "daemon.stopping")
            assert fate_of(daemon, late.die()) is None
        assert victim.process.wait(60) == -signal.SIGSEGV
    assert daemon.process.wait(40) == 0


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
