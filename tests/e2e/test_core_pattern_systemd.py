"""core_pattern and the stored socket under a real systemd: kept while the service restarts, put back when it stops."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import HERE, wait_for
from machine import core_pattern, need
from systemd_machine import SERVICE, UNITS, Machine, setting_units

from collector.host.core_pattern_owner import has_coredump_socket

ORIGINAL = f"original.{os.getpid()}.%P"
OFTEN = "[Unit]\nStartLimitIntervalSec=0\n"
CRASH = [sys.executable, "-I", "-S", "-c", "import os; print(os.getpid(), flush=True); os.kill(os.getpid(), 11)"]
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not has_coredump_socket(os.uname().release), reason="needs Linux 6.17"),
]


class Taken:
    """The machine with `core_taker` as the service, whose directory the kernel reaches by the same path."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        self.machine = machine
        self.directory = directory
        self.pattern = f"@@{directory}/run/cores"

    def start(self) -> None:
        self.systemctl("start", SERVICE)
        wait_for(lambda: in_force() == self.pattern, "core_pattern")

    def systemctl(self, *arguments: str) -> None:
        done = self.machine.run("systemctl", *arguments)
        assert done.returncode == 0, done.stderr

    def kill(self) -> None:
        """SIGKILL, and wait until the service waits for its restart."""
        self.systemctl("kill", "--signal=KILL", "--kill-whom=main", SERVICE)
        wait_for(lambda: self.state() == "auto-restart", "the wait for the restart")

    def state(self) -> str:
        return self.machine.show(SERVICE, "SubState")

    def restarted(self) -> None:
        wait_for(lambda: self.state() == "running", "the restart")

    @contextmanager
    def crashing(self) -> Iterator[int]:
        """Start a process on the machine that crashes; yield its PID there."""
        with subprocess.Popen(self.machine.entering(*CRASH), stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            try:
                yield int(process.stdout.readline())
            finally:
                process.kill()

    def is_held(self, pid: int) -> bool:
        return "CoreDumping:\t1" in self.machine.run("cat", f"/proc/{pid}/status").stdout

    def has_taken(self, pid: int) -> bool:
        path = self.directory / "taken"
        return path.exists() and str(pid) in path.read_text(encoding="ascii").split()

    def record(self) -> tuple[int, int]:
        """Return what tells the file with the original from one that was written since: each put back removes it."""
        info = os.stat(f"{self.directory}/run.core_pattern")
        return info.st_ino, info.st_mtime_ns

    def is_back(self) -> bool:
        return in_force() == ORIGINAL


def in_force() -> str:
    return Path("/proc/sys/kernel/core_pattern").read_text(encoding="utf-8").rstrip("\n")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Taken]:
    need("root")
    directory = Path(tempfile.mkdtemp(prefix="taken-", dir="/tmp"))
    command = f"{sys.executable} {HERE}/core_taker.py {directory}"
    config = directory / "collector.yaml"
    config.write_text(f"version: 1\nruntime: {{directory: {directory}/run}}\n", encoding="utf-8")
    taker = {f"{SERVICE}.d/taker.conf": f"{OFTEN}[Service]\nExecStart=\nExecStart={command}\n"}
    units = taker | setting_units(config, directory / "run")
    try:
        with core_pattern(ORIGINAL):
            opened = Machine(tmp_path_factory.mktemp("machine"), units)
            opened.run("systemctl", "stop", SERVICE)
        try:
            yield Taken(opened, directory)
        finally:
            opened.close()
    finally:
        shutil.rmtree(directory)
        Path(f"{directory}/run.core_pattern").unlink(missing_ok=True)


@pytest.fixture
def service(machine: Taken) -> Iterator[Taken]:
    with core_pattern(ORIGINAL):
        machine.start()
        try:
            yield machine
        finally:
            (machine.directory / "wait").unlink(missing_ok=True)
            machine.systemctl("stop", SERVICE)
            wait_for(machine.is_back, "the original core_pattern")


def test_crash_while_the_service_restarts_waits_for_the_successor(service: Taken) -> None:
    """`systemctl restart`: nobody accepts, but systemd holds the socket and core_pattern stays."""
    record = service.record()
    (service.directory / "wait").touch()
    (service.directory / "stopping").unlink(missing_ok=True)
    service.systemctl("--no-block", "restart", SERVICE)
    wait_for((service.directory / "stopping").exists, "the stop")
    with service.crashing() as pid:
        wait_for(lambda: service.is_held(pid), "the crash")
        assert not service.has_taken(pid)
        (service.directory / "wait").unlink()
        wait_for(lambda: service.has_taken(pid), "the successor")
    service.restarted()
    assert (in_force(), service.record()) == (service.pattern, record)


def test_crash_after_sigkill_waits_for_the_successor(service: Taken) -> None:
    record = service.record()
    service.kill()
    assert in_force() == service.pattern
    with service.crashing() as pid:
        wait_for(lambda: service.has_taken(pid), "the successor")
    service.restarted()
    assert (in_force(), service.record()) == (service.pattern, record)


def test_stop_puts_core_pattern_back(service: Taken) -> None:
    """Nothing that this touches starts the service again."""
    service.systemctl("stop", SERVICE)
    wait_for(service.is_back, "the original")
    assert service.state() == "dead"


def test_stop_puts_core_pattern_back_after_a_sigkill_and_a_restart(service: Taken) -> None:
    """The successor found the collector's own pattern, and must not take that for the original."""
    service.kill()
    service.restarted()
    service.systemctl("restart", SERVICE)
    service.systemctl("stop", SERVICE)
    wait_for(service.is_back, "the original")


def test_stop_puts_core_pattern_back_while_a_restart_is_pending(service: Taken) -> None:
    """systemd runs no ExecStopPost= then."""
    service.kill()
    service.systemctl("stop", SERVICE)
    wait_for(service.is_back, "the original")


def test_stop_puts_core_pattern_back_long_after_systemd_has_asked_for_that(service: Taken) -> None:
    """It asks once, right after the SIGKILL, when a restart is still to come."""
    service.kill()
    time.sleep(1.0)
    assert (service.state(), in_force()) == ("auto-restart", service.pattern)
    service.systemctl("stop", SERVICE)
    wait_for(service.is_back, "the original")


def test_failure_for_good_puts_core_pattern_back(service: Taken) -> None:
    """With a status of RestartPreventExitStatus=, nothing is started again."""
    service.systemctl("kill", "--signal=USR1", "--kill-whom=main", SERVICE)
    wait_for(service.is_back, "the original")
    assert service.state() == "failed"
    service.systemctl("reset-failed", SERVICE)


def test_core_pattern_stays_when_systemd_executes_itself_again(service: Taken) -> None:
    service.systemctl("daemon-reexec")
    wait_for(lambda: service.state() == "running", "systemd")
    assert in_force() == service.pattern
    service.kill()
    with service.crashing() as pid:
        wait_for(lambda: service.has_taken(pid), "the successor")
    service.restarted()


def test_crash_is_let_go_when_systemd_gives_up_on_the_service(service: Taken) -> None:
    """A service that cannot start must not hold anybody forever; the limit is the shipped one."""
    shipped = "".join(re.findall(r"^StartLimit.*\n", (UNITS / SERVICE).read_text(encoding="utf-8"), re.MULTILINE))
    drop_in = f"/run/units/{SERVICE}.d/z.conf"
    service.machine.run("sh", "-c", f"printf '[Unit]\n{shipped}[Service]\nRestartSec=100ms\n' > {drop_in}")
    service.systemctl("daemon-reload")
    (service.directory / "fail").touch()
    try:
        service.systemctl("kill", "--signal=KILL", "--kill-whom=main", SERVICE)
        with service.crashing() as pid:
            wait_for(lambda: service.is_held(pid), "the crash")
            wait_for(service.is_back, "the original")
            wait_for(lambda: not service.is_held(pid), "the end of the process")
            assert not service.has_taken(pid)
        assert service.machine.show(SERVICE, "Result") == "exit-code"
        assert service.state() == "failed"
    finally:
        (service.directory / "fail").unlink()
        service.machine.run("rm", drop_in)
        service.systemctl("daemon-reload")
        service.systemctl("reset-failed", SERVICE)
