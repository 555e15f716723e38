"""Attacks on triggers: the collector's own crashes, and messages that imitate the kernel's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from configuration import CORES, HOLD, MEMORY, config_of
from harness import Daemon, Victim, held, wait_for
from machine import PROC_CONNECTOR, core_pattern, every_fault_logged

pytestmark = pytest.mark.root
KERNEL = "{id: kernel, type: kernel_log, pipeline: crash}"


def fates(daemon: Daemon) -> list[tuple[str, int, str]]:
    """Return trigger, PID and fate of every marker."""
    return daemon.ledger("trigger, json_extract(marker, '$.process.pid'), fate")


def exits(*commands: str) -> str:
    """Return a trigger for exits of these commands: other processes of the machine end, too."""
    return f"{{id: exits, type: process_exits, rules: [{{comm: [{', '.join(commands)}]}}], pipeline: crash}}"


def workers(daemon: Daemon) -> list[int]:
    return [worker.pid for worker in psutil.Process(daemon.pid).children()]


@pytest.mark.needs(PROC_CONNECTOR)
def test_crash_of_a_worker_opens_no_incident(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """Workers killed idle and busy: their markers are recorded and suppressed, and they leave no core."""
    triggers = (CORES, exits(crasher.name, '"python*"', '"collector*"'), KERNEL)
    daemon = daemon_factory(config_of(HOLD, MEMORY, triggers=triggers))
    os.mkfifo(daemon.directory / "hold")
    own = set(workers(daemon))
    with core_pattern(f"{daemon.cores}/core.%e.%p"):
        pid = Victim(crasher).die()
        with held(daemon.directory / "hold"):
            for worker in workers(daemon):
                os.kill(worker, signal.SIGSEGV)
            wait_for(lambda: [row for row in fates(daemon) if row[1] in own], "marker of a worker")
        daemon.wait_for_incidents(1)
        asleep = wait_for(lambda: [worker for worker in workers(daemon) if worker not in own], "new workers")
        own |= set(asleep)
        os.kill(asleep[0], signal.SIGSEGV)
        wait_for(lambda: [row for row in fates(daemon) if row[1] == asleep[0]], "marker of the one that slept")
    assert {fate for _, known, fate in fates(daemon) if known in own} == {"suppressed"}
    markers = [marker for manifest in daemon.incidents() for marker in manifest["markers"]]
    about = {(marker["process"] or {}).get("pid") for marker in markers}
    assert pid in about
    assert not own & about
    cores = [path.name for path in daemon.cores.iterdir()]
    assert f"core.{crasher.name}.{pid}" in cores
    assert not [name for name in cores if int(name.rpartition(".")[2]) in own]


def test_messages_from_user_space_open_no_incident(daemon_factory: Callable[..., Daemon], crasher: Path) -> None:
    """`logger -p kern.err` by nobody and by root makes no marker; a real fault afterwards does."""
    daemon = daemon_factory(config_of(MEMORY, triggers=(KERNEL,)))
    line = "engine[999999]: segfault at 0 ip 0 sp 0 error 4"
    for user in ([], ["setpriv", "--reuid=65534", "--clear-groups"]):
        subprocess.run([*user, "logger", "-p", "kern.err", line], check=False)
        subprocess.run([*user, "sh", "-c", f"echo '<3>{line}' > /dev/kmsg"], check=False, stderr=subprocess.DEVNULL)
    with core_pattern("|/bin/true"), every_fault_logged():
        pid = Victim(crasher).die()
    wait_for(lambda: [row for row in fates(daemon) if row[1] == pid], "marker of the real one")
    assert not [row for row in fates(daemon) if row[1] == 999_999]


@pytest.mark.needs(PROC_CONNECTOR)
def test_command_that_crashes_opens_no_incident(daemon_factory: Callable[..., Daemon]) -> None:
    """Otherwise a step whose command dies of SIGSEGV would cause incident after incident."""
    crashing = '{id: crashing, collector: command, with: {argv: [/bin/sh, -c, "kill -SEGV $$"]}}'
    daemon = daemon_factory(config_of(crashing, MEMORY, triggers=(CORES, exits("sh"))))
    with core_pattern(f"{daemon.cores}/core.%e.%p"):
        (daemon.cores / "core.engine.999999").write_bytes(b"x")
        daemon.wait_for_incidents(1)
        status = json.loads(daemon.run("status", "--json").stdout)
        assert status["fates"].get("suppressed", 0) >= 1
    opened = [marker for manifest in daemon.incidents() for marker in manifest["markers"] if marker["comm"] == "sh"]
    assert opened == []
